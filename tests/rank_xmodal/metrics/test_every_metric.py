"""What every metric that has a name promises."""

import numpy as np
import pytest
import torch

from rank_xmodal import metrics
from rank_xmodal.errors import UserError

NAMES = ("R@1", "hit_rate@5", "recall@5", "MRR", "NDCG@10", "MAP@5")
every_metric = pytest.mark.parametrize("name", NAMES)
# These divide by the number of relevant items, which can be told them.
counting = pytest.mark.parametrize("function", [metrics.recall, metrics.ndcg, metrics.map_at_k])
with_k = pytest.mark.parametrize("function", [metrics.hit_rate, metrics.recall, metrics.ndcg, metrics.map_at_k])


def test_no_metric_is_missing_here():
    assert {name.split("@")[0] for name in NAMES} == {form.removesuffix("@k") for form in metrics._FORMS}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("R@1", 0.019608),
        ("R@5", 0.09804),
        ("R@10", 0.19608),
        ("recall@10", 0.19608),
        ("MRR", 0.08860),
        ("NDCG@10", 0.08909),
        ("MAP@51", 0.08860),
    ],
)
def test_random_order_of_51(lists, name, expected):
    assert metrics.compute(name, *lists.every_position()).mean().item() == pytest.approx(expected, abs=5e-6)


@every_metric
def test_constant_scorer_does_not_beat_chance(lists, name):
    """It finds the relevant item of 51 at the last rank."""
    _, labels = lists.every_position()
    value = metrics.compute(name, torch.zeros(51, 51), labels).mean().item()
    assert value == pytest.approx(1 / 51 if name == "MRR" else 0.0)


@every_metric
def test_a_list_without_a_relevant_item_is_a_miss(name):
    assert metrics.compute(name, torch.zeros(2, 3), torch.tensor([[0, 0, 0], [-1, -1, -1]])).tolist() == [0.0, 0.0]


@every_metric
def test_takes_n_relevant_and_gives_one_value_per_query(lists, name):
    scores, labels = lists.random(3)
    total = (labels > 0).sum(1) + 2
    values = metrics.get(name)(scores, labels, n_relevant=total)
    assert values.shape == (40,)
    assert values.dtype == torch.float64
    uses_it = name.startswith(("recall", "NDCG", "MAP"))
    assert torch.equal(values, metrics.get(name)(scores, labels)) != uses_it


@pytest.mark.parametrize("function", [metrics.recall, metrics.map_at_k])
def test_relevant_items_outside_the_list_count_as_not_found(function):
    scores, labels = torch.tensor([[3.0, 2.0], [3.0, 2.0], [3.0, 2.0]]), torch.tensor([[1, 0], [0, 0], [0, 0]])
    assert function(scores, labels, k=2, n_relevant=torch.tensor([5, 1, 0])).tolist() == [0.2, 0.0, 0.0]


@counting
@pytest.mark.parametrize(
    ("n_relevant", "message"),
    [
        ([1, 1], "n_relevant is 1 for query 1, whose list holds 2"),
        ([1, 1, 1], r"n_relevant has shape \(3,\): pass one count per query, 2"),
    ],
)
def test_bad_n_relevant(function, n_relevant, message):
    with pytest.raises(ValueError, match=message):
        function(torch.zeros(2, 2), torch.tensor([[1, 0], [1, 1]]), k=1, n_relevant=torch.tensor(n_relevant))


@counting
@pytest.mark.parametrize(
    ("n_relevant", "message"),
    [
        ([1, 2], "n_relevant is of type list: pass"),
        (np.array([1, 2]), "n_relevant is of type ndarray: pass"),
        (torch.tensor([torch.nan, 2.0]), "n_relevant is nan for query 0"),
        (torch.tensor([1.0, torch.inf]), "n_relevant is inf for query 1"),
    ],
)
def test_n_relevant_that_is_no_tensor_of_counts(function, n_relevant, message):
    with pytest.raises(ValueError, match=message):
        function(torch.zeros(2, 2), torch.tensor([[1, 0], [1, 1]]), k=1, n_relevant=n_relevant)


@with_k
def test_a_huge_k_is_the_whole_list(function, sample):
    """It was an OverflowError, or as many zeros as k in memory."""
    whole = function(sample.scores, sample.labels, k=sample.scores.shape[1])
    for k in (10**9, 2**63 - 1, 10**30):
        assert torch.equal(function(sample.scores, sample.labels, k=k), whole)


def test_a_k_beyond_the_list_still_counts_what_is_missing():
    scores, labels = torch.tensor([[3.0, 2.0], [3.0, 2.0]]), torch.tensor([[1, 0], [0, 0]])
    few, many = (metrics.ndcg(scores, labels, k, n_relevant=torch.tensor([4, 1])) for k in (4, 10**30))
    assert torch.equal(few, many)
    ideal = sum(1 / np.log2(1 + rank) for rank in (1, 2, 3, 4))
    assert many.tolist() == pytest.approx([1 / ideal, 0.0])
    assert metrics.ndcg(torch.zeros(0, 2), torch.zeros(0, 2), 5).shape == (0,)


@pytest.mark.parametrize("name", [None, 5, "", "R@0"])
def test_what_is_no_name_of_a_metric(name):
    with pytest.raises(UserError, match="unknown metric"):
        metrics.get(name)


@with_k
@pytest.mark.parametrize("k", [0, -1, 1.0, 1.5, True])
def test_bad_k(function, k):
    with pytest.raises(ValueError, match=f"k is {k}: pass an integer of at least 1"):
        function(torch.zeros(1, 2), torch.zeros(1, 2), k)


@every_metric
@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (torch.zeros(3), torch.zeros(3), r"scores has shape \(3,\): pass"),
        (torch.zeros(2, 0), torch.zeros(2, 0), r"scores has shape \(2, 0\): pass"),
        (torch.zeros(2, 3), torch.zeros(3, 2), r"labels has shape \(3, 2\), scores \(2, 3\): pass"),
        (torch.tensor([[1.0, 2.0], [torch.nan, 0.0]]), torch.zeros(2, 2), "NaN in 1 places, first in query 1"),
        (torch.zeros(2, 3).long(), torch.zeros(2, 3), r"scores has dtype torch.int64: pass"),
        (torch.zeros(2, 3).bool(), torch.zeros(2, 3), r"scores has dtype torch.bool: pass"),
        (torch.zeros(1, 2), torch.tensor([[1.0, torch.nan]]), "labels holds NaN or infinity: pass"),
        (torch.zeros(1, 2), torch.tensor([[1.0, torch.inf]]), "labels holds NaN or infinity: pass"),
        (torch.zeros(1, 2), torch.tensor([[1, 255]], dtype=torch.uint8), "labels holds 255 in uint8"),
        (None, torch.zeros(1, 2), "scores is None: pass"),
        (np.zeros((1, 2)), torch.zeros(1, 2), "scores is of type ndarray: pass"),
        (torch.zeros(1, 2), [[1, 0]], "labels is of type list: pass"),
        (torch.zeros(1, 2), np.zeros((1, 2)), "labels is of type ndarray: pass"),
    ],
)
def test_bad_input_names_parameter_value_and_remedy(name, scores, labels, message):
    with pytest.raises(ValueError, match=message):
        metrics.compute(name, scores, labels)
