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
        ("MAP@5", metrics.map_at_k, 5),
        ("map@5", metrics.map_at_k, 5),
    ],
)
def test_name_gives_metric_and_k(lists, name, function, k):
    scores, labels = lists.random(3)
    expected = function(scores, labels, k)
    assert expected.unique().numel() > 1
    assert torch.equal(metrics.get(name)(scores, labels), expected)
    assert torch.equal(metrics.compute(name, scores, labels), expected)


@pytest.mark.parametrize(
    ("name", "function"), [("recall@5", metrics.recall), ("NDCG@5", metrics.ndcg), ("MAP@5", metrics.map_at_k)]
)
def test_n_relevant_is_handed_on(lists, name, function):
    scores, labels = lists.random(3)
    total = (labels > 0).sum(1) + 2
    expected = function(scores, labels, 5, total)
    assert torch.equal(metrics.get(name)(scores, labels, total), expected)
    assert torch.equal(metrics.compute(name, scores, labels, n_relevant=total), expected)


def test_mrr_has_no_k(lists):
    scores, labels = lists.random(3)
    assert torch.equal(metrics.get("MRR")(scores, labels), metrics.mrr(scores, labels))


def test_r_at_5_is_not_recall_at_5(lists):
    scores, labels = lists.random(3)
    assert not torch.equal(metrics.compute("R@5", scores, labels), metrics.compute("recall@5", scores, labels))


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
