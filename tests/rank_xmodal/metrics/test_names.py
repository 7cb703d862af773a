import pytest
import torch

from rank_xmodal import metrics
from rank_xmodal.errors import UserError


@pytest.mark.parametrize(
    ("name", "function", "k"),
    [
        ("R@1", metrics.hit_rate, 1),
        ("hit_rate@5", metrics.hit_rate, 5),
        ("recall@5", metrics.recall, 5),
        ("NDCG@10", metrics.ndcg, 10),
        ("ndcg@3", metrics.ndcg, 3),
    ],
)
def test_name_gives_metric_and_k(lists, name, function, k):
    scores, labels = lists.random(3)
    expected = function(scores, labels, k)
    assert expected.unique().numel() > 1
    assert torch.equal(metrics.get(name)(scores, labels), expected)
    assert torch.equal(metrics.compute(name, scores, labels), expected)


def test_mrr_has_no_k(lists):
    scores, labels = lists.random(3)
    assert torch.equal(metrics.get("MRR")(scores, labels), metrics.mrr(scores, labels))


def test_r_at_5_is_not_recall_at_5(lists):
    scores, labels = lists.random(3)
    assert not torch.equal(metrics.compute("R@5", scores, labels), metrics.compute("recall@5", scores, labels))


@pytest.mark.parametrize("name", [*metrics.DEFAULT, "recall@5"])
def test_every_metric_takes_n_relevant_and_gives_one_value_per_query(lists, name):
    scores, labels = lists.random(3)
    total = (labels > 0).sum(1) + 2
    values = metrics.get(name)(scores, labels, n_relevant=total)
    assert values.shape == (40,)
    assert values.dtype == torch.float64
    uses_it = name.startswith(("recall", "NDCG"))
    assert torch.equal(values, metrics.get(name)(scores, labels)) != uses_it


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("recal@5", "recall@5"), ("hitrate@3", "hit_rate@3"), ("NDGC@10", "NDCG@10"), ("MRR@10", "MRR"), ("R1", "R@1")],
)
def test_unknown_name_names_the_nearest(name, nearest):
    with pytest.raises(UserError, match=rf"unknown metric '{name}'\. Did you mean '{nearest}'\? Metrics: R@k"):
        metrics.get(name)


@pytest.mark.parametrize("name", ["R@0", "R@-1", "NDCG", "", "R@1.5"])
def test_bad_k_in_a_name(name):
    with pytest.raises(UserError, match="unknown metric"):
        metrics.get(name)


@pytest.mark.parametrize("name", metrics.DEFAULT)
@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (torch.zeros(3), torch.zeros(3), r"scores has shape \(3,\): pass"),
        (torch.zeros(2, 0), torch.zeros(2, 0), r"scores has shape \(2, 0\): pass"),
        (torch.zeros(2, 3), torch.zeros(3, 2), r"labels has shape \(3, 2\), scores \(2, 3\): pass"),
        (torch.tensor([[1.0, 2.0], [torch.nan, 0.0]]), torch.zeros(2, 2), "NaN in 1 places, first in query 1"),
    ],
)
def test_bad_input_names_parameter_value_and_remedy(name, scores, labels, message):
    with pytest.raises(ValueError, match=message):
        metrics.compute(name, scores, labels)
