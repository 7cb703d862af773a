import math

import pytest
import torch

from rank_xmodal import metrics
from rank_xmodal.losses import approxndcg

CASES = {
    "perfect": ([3.0, 1.0, -1.0], [1, 0, 0]),
    "middle": ([1.0, 3.0, -1.0], [1, 0, 0]),
    "worst": ([-1.0, 3.0, 1.0], [1, 0, 0]),
    "two relevant": ([0.5, 0.2, -0.3, 1.0], [0, 1, 1, 0]),
    "graded": ([0.5, 0.2, -0.3, 1.0], [3, 0, 1, 2]),
    "graded, lowest label 1": ([0.5, 0.2, -0.3], [2, 1, 1]),
    "tied": ([0.5, 0.5, 0.5, 0.1], [1, 0, 0, 2]),
    "constant": ([0.7, 0.7, 0.7, 0.7], [0, 1, 0, 0]),
    "padded": ([0.5, 7.0, -0.3, 1.0, 0.9], [1, -1, 0, -1, 0]),
}


def two_loops(scores, labels, alpha=1.0):
    items = [(s, y) for s, y in zip(scores, labels, strict=True) if y >= 0]
    gains = sorted((2.0**y - 1 for _, y in items), reverse=True)
    ideal = sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains))
    total = 0.0
    for i, (score_i, label_i) in enumerate(items):
        rank = 1.0
        for j, (score_j, _) in enumerate(items):
            if j != i:
                rank += 1 / (1 + math.exp(-alpha * (score_j - score_i)))
        total -= (2.0**label_i - 1) / math.log2(1 + rank) / ideal
    return total


@pytest.mark.parametrize("alpha", [1.0, 10.0])
@pytest.mark.parametrize("case", CASES)
def test_equals_two_loops(case, alpha):
    scores, labels = CASES[case]
    loss = approxndcg(torch.tensor([scores]), torch.tensor([labels]), alpha=alpha)
    assert loss.item() == pytest.approx(two_loops(scores, labels, alpha), rel=1e-5)


@pytest.mark.parametrize("alpha", [0.3, 10.0])
@pytest.mark.parametrize("case", CASES)
def test_gradcheck(case, alpha):
    scores, labels = (torch.tensor([values], dtype=torch.float64) for values in CASES[case])
    assert torch.autograd.gradcheck(lambda s: approxndcg(s, labels, alpha=alpha), (scores.requires_grad_(),))


def test_tends_to_minus_ndcg():
    scores, labels = torch.rand(8, 20).argsort(1).double(), torch.randint(-1, 4, (8, 20))
    loss = approxndcg(scores, labels, alpha=50.0, reduction="none")
    torch.testing.assert_close(loss, -metrics.ndcg(scores, labels, k=20))


def test_equal_scores_of_51_stand_at_rank_26():
    labels = torch.zeros(1, 51)
    labels[0, 7] = 1
    assert approxndcg(torch.zeros(1, 51), labels).item() == pytest.approx(-1 / math.log2(27), rel=1e-6)


@pytest.mark.parametrize("place", [0, 1, 4])
def test_at_equal_scores_the_storage_order_does_not_matter(place):
    scores = torch.zeros(1, 5, requires_grad=True)
    approxndcg(scores, torch.zeros(1, 5).index_fill_(1, torch.tensor([place]), 1.0)).backward()
    others = [i for i in range(5) if i != place]
    assert scores.grad[0, place] < 0
    torch.testing.assert_close(scores.grad[0, others], (-scores.grad[0, place] / 4).expand(4))


def test_lists_of_one_label_teach_nothing():
    scores = torch.randn(2, 3, requires_grad=True)
    loss = approxndcg(scores, torch.tensor([[1, 1, 1], [2, 2, -1]]))
    loss.backward()
    assert loss.item() == 0.0
    assert (scores.grad == 0).all()


@pytest.mark.parametrize("gap", [1e2, 1e4, 1e30])
def test_extreme_scores_are_finite(gap):
    scores = torch.tensor([[-gap, gap, 0.0, 0.5]], requires_grad=True)
    loss = approxndcg(scores, torch.tensor([[1, 0, 1, 0]]))
    loss.backward()
    assert -1 <= loss.item() <= 0
    assert scores.grad.isfinite().all()
    assert scores.grad[0, 2] < 0, "what is within reach still learns"


@pytest.mark.parametrize("alpha", [0, -1.0, math.inf, math.nan, "steep", True])
def test_bad_alpha(alpha):
    with pytest.raises(ValueError, match=r"alpha is .*above 0"):
        approxndcg(torch.zeros(1, 2), torch.zeros(1, 2), alpha=alpha)


@pytest.mark.parametrize("alpha", [1.0, 5.0])
def test_allrank_agrees(allrank, alpha):
    scores, labels = torch.randn(8, 7), torch.randint(0, 4, (8, 7)).float().index_fill_(1, torch.tensor([6]), -1.0)
    labels[:, 0], labels[:, 1] = 0, 1
    ours, theirs = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    loss = approxndcg(ours, labels, alpha=alpha)
    reference = allrank.losses.approxNDCGLoss(theirs, labels, alpha=alpha)
    torch.testing.assert_close(loss, reference)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
