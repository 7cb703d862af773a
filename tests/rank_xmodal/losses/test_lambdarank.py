import math

import pytest
import torch

from rank_xmodal.losses import lambdarank


def test_weights_are_constants_for_the_gradient():
    """d/ds of w log(1 + e^-(s0 - s1)) with w the NDCG lost by swapping ranks 1 and 2."""
    scores = torch.tensor([[0.0, 1.0]], requires_grad=True)
    lambdarank(scores, torch.tensor([[1, 0]])).backward()
    weight, slope = 1 - 1 / math.log2(3), 1 / (1 + math.exp(-1.0))
    torch.testing.assert_close(scores.grad, torch.tensor([[-weight * slope, weight * slope]]))


def long_list():
    """51 items, the only positive at rank 31."""
    scores = -torch.arange(51.0)[None] / 10
    labels = torch.zeros(1, 51)
    labels[0, 30] = 1
    return scores.requires_grad_(), labels


def test_truncation_keeps_pairs_with_either_item_in_the_top_k():
    scores, labels = long_list()
    lambdarank(scores, labels, k=10).backward()
    assert scores.grad[0, 30] < -0.1
    assert (scores.grad[0, :10] > 0).all()
    assert (scores.grad[0, 10:30] == 0).all(), "pairs entirely below k weigh nothing"


def allrank_lambdarank(allrank, scores, labels, **settings):
    return allrank.losses.lambdaLoss(scores, labels, weighing_scheme="lambdaRank_scheme", **settings)


@pytest.mark.parametrize(("log", "factor"), [("natural", 1.0), ("binary", 1 / math.log(2))])
@pytest.mark.parametrize("graded", [False, True])
def test_allrank_agrees_up_to_log_and_sum(allrank, graded, log, factor):
    labels = torch.randint(0, 4, (8, 7)) if graded else torch.zeros(8, 7).index_fill_(1, torch.tensor([2]), 1.0)
    labels = labels.float().index_fill_(1, torch.tensor([6]), -1.0)
    scores = torch.randn(8, 7)
    ours, theirs = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    loss = lambdarank(ours, labels, reduction="none").sum() * factor
    reference = allrank_lambdarank(allrank, theirs, labels, reduction_log=log)
    torch.testing.assert_close(loss, reference)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_allrank_grows_with_the_batch(allrank):
    scores, labels = torch.randn(4, 7), torch.zeros(4, 7).index_fill_(1, torch.tensor([2]), 1.0)
    once, twice = (scores, labels), (scores.repeat(2, 1), labels.repeat(2, 1))
    torch.testing.assert_close(allrank_lambdarank(allrank, *twice), 2 * allrank_lambdarank(allrank, *once))
    torch.testing.assert_close(lambdarank(*twice), lambdarank(*once))


def test_allrank_truncation_drops_a_positive_below_k(allrank):
    scores, labels = long_list()
    allrank_lambdarank(allrank, scores, labels, k=10).backward()
    assert (scores.grad == 0).all()


def test_allrank_clamp_kills_the_gradient_of_a_badly_ranked_positive(allrank):
    scores = torch.tensor([[-30.0, 0.0]], requires_grad=True)
    allrank_lambdarank(allrank, scores, torch.tensor([[1.0, 0.0]])).backward()
    assert (scores.grad == 0).all()
    lambdarank(scores, torch.tensor([[1.0, 0.0]])).backward()
    assert scores.grad[0, 0] < -0.3
