import itertools
import math

import pytest
import torch

from rank_xmodal import losses
from rank_xmodal.errors import UserError
from rank_xmodal.losses import lambdaloss, lambdarank

# Weightings, and what allRank calls them.
SCHEMES = {"ndcg2++": "ndcgLoss2PP_scheme", "ndcg2": "ndcgLoss2_scheme", "ndcg1": "ndcgLoss1_scheme"}
every_weighting = pytest.mark.parametrize("weighting", SCHEMES)


@pytest.mark.parametrize("k", [None, 3])
def test_2_plus_plus_is_lambdarank_and_mu_times_2(k):
    scores, labels = torch.randn(8, 7), torch.randint(-1, 4, (8, 7))
    expected = lambdarank(scores, labels, k=k) + 4.0 * lambdaloss(scores, labels, weighting="ndcg2", k=k)
    torch.testing.assert_close(lambdaloss(scores, labels, mu=4.0, k=k), expected)
    torch.testing.assert_close(lambdaloss(scores, labels, mu=1e-9, k=k), lambdarank(scores, labels, k=k))


def test_at_equal_scores_2_pushes_the_nearest_hardest():
    """The positive last, the others 1, 2 and 3 ranks above it, at D(1) - D(2), D(2) - D(3) and D(3) - D(4)."""
    scores = torch.zeros(1, 4, requires_grad=True)
    lambdaloss(scores, torch.tensor([[1, 0, 0, 0]]), weighting="ndcg2").backward()
    discounts = [1 / math.log2(1 + r) for r in range(1, 5)]
    steps = sorted((a - b) / 2 for a, b in itertools.pairwise(discounts))
    assert sorted(scores.grad[0, 1:].tolist()) == pytest.approx(steps)
    assert scores.grad[0, 0].item() == pytest.approx(-sum(steps))


@every_weighting
def test_truncation_keeps_pairs_with_either_item_in_the_top_k(weighting):
    scores = (-torch.arange(51.0)[None] / 10).requires_grad_()
    labels = torch.zeros(1, 51)
    labels[0, 30] = 1
    lambdaloss(scores, labels, k=10, weighting=weighting).backward()
    assert scores.grad[0, 30] < -0.02
    assert (scores.grad[0, :10] > 0).all()
    assert (scores.grad[0, 10:30] == 0).all(), "pairs entirely below k weigh nothing"


@pytest.mark.parametrize("weighting", ["ndcg3", "NDCG1", 1, None, []])
def test_bad_weighting(weighting):
    with pytest.raises(UserError, match=r"weighting is .*: pass 'ndcg2\+\+', 'ndcg2' or 'ndcg1'"):
        losses.get("lambdaloss", weighting=weighting)


@every_weighting
def test_allrank_agrees_up_to_its_own_pairs(allrank, weighting):
    """Its ndcg1 counts an item against itself: a number without a gradient, as its score difference is 0."""
    scores, labels = torch.randn(8, 7), torch.randint(0, 4, (8, 7)).float().index_fill_(1, torch.tensor([6]), -1.0)
    labels[:, 0], labels[:, 1] = 0, 1
    ours, theirs = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    loss = lambdaloss(ours, labels, weighting=weighting, reduction="none").sum()
    reference = allrank.losses.lambdaLoss(
        theirs, labels, weighing_scheme=SCHEMES[weighting], reduction_log="natural", eps=1e-30
    )
    if weighting != "ndcg1":
        torch.testing.assert_close(loss, reference)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
