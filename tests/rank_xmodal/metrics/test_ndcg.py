import math

import pytest
import torch

from rank_xmodal.metrics import ndcg


def by_loops(ranked, k, missing=0):
    dcg = sum((2**y - 1) / math.log2(i + 2) for i, y in enumerate(ranked[:k]))
    best = sorted([*ranked, *([1] * missing)], reverse=True)
    ideal = sum((2**y - 1) / math.log2(i + 2) for i, y in enumerate(best[:k]))
    return dcg / ideal if ideal else 0.0


@pytest.mark.parametrize("k", [1, 3, 12, 100])
def test_equals_plain_loops(sample, k):
    expected = [by_loops(ranked, k) for ranked in sample.ranked]
    assert ndcg(sample.scores, sample.labels, k).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 3, 12, 100])
def test_ideal_order_holds_the_relevant_items_outside_the_list(sample, k):
    missing = [i % 4 for i in range(len(sample.ranked))]
    total = torch.tensor([sum(y > 0 for y in r) + m for r, m in zip(sample.ranked, missing, strict=True)])
    expected = [by_loops(r, k, m) for r, m in zip(sample.ranked, missing, strict=True)]
    assert ndcg(sample.scores, sample.labels, k, n_relevant=total).tolist() == pytest.approx(expected)


def test_perfect_and_worst():
    labels = torch.tensor([[3, 2, 1, 0]]).repeat(2, 1)
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
    perfect, worst = ndcg(scores, labels, k=4).tolist()
    assert perfect == pytest.approx(1.0)
    assert worst == pytest.approx(by_loops([0, 1, 2, 3], 4))
