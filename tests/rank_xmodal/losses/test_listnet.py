import math

import pytest
import torch

from rank_xmodal.losses import listnet


def test_equal_scores_of_51_give_ln_51(one_of_51):
    assert listnet(*one_of_51).item() == pytest.approx(math.log(51), rel=1e-6)


def test_gradient_is_softmax_minus_target():
    scores = torch.tensor([[0.3, -0.2, 1.0, 0.1]], requires_grad=True)
    listnet(scores, torch.tensor([[1, 0, 1, 0]])).backward()
    expected = scores.detach().softmax(1) - torch.tensor([[0.5, 0.0, 0.5, 0.0]])
    torch.testing.assert_close(scores.grad, expected)


def test_allrank_agrees_when_given_logits_of_our_target(allrank):
    """allRank softmaxes the labels, so labels log(y / sum y) are the ones for which its target is ours."""
    scores, labels = torch.randn(8, 6), torch.randint(1, 4, (8, 6))
    theirs = allrank.losses.listNet(scores, (labels / labels.sum(1, keepdim=True)).log())
    torch.testing.assert_close(listnet(scores, labels), theirs)


def test_allrank_pushes_a_positive_back_beyond_a_gap_of_1(allrank):
    labels = torch.tensor([[1.0, 0.0, 0.0]])
    gradients = {}
    for name, loss in (("ours", listnet), ("allrank", allrank.losses.listNet)):
        scores = torch.tensor([[1.5, 0.0, 0.0]], requires_grad=True)
        loss(scores, labels).backward()
        gradients[name] = scores.grad[0, 0].item()
    assert gradients["allrank"] > 0.01
    assert gradients["ours"] < -0.1


def test_allrank_loses_the_gradient_of_a_badly_ranked_positive(allrank):
    """Its log(softmax + 1e-10) is flat where the softmax is below 1e-10; a gap of 40 is enough."""
    scores = torch.tensor([[-40.0, 0.0]], requires_grad=True)
    allrank.losses.binary_listNet(scores, torch.tensor([[1.0, 0.0]])).backward()
    assert abs(scores.grad[0, 0].item()) < 1e-5
    scores.grad = None
    listnet(scores, torch.tensor([[1.0, 0.0]])).backward()
    assert scores.grad[0, 0].item() == pytest.approx(-1.0)


def test_padding_stays_without_effect_at_a_tiny_temperature():
    scores = torch.tensor([[0.1, 0.2, 5.0]], requires_grad=True)
    loss = listnet(scores, torch.tensor([[1, 0, -1]]), temperature=1e-9)
    assert torch.isfinite(loss)
    assert float(loss.detach()) == pytest.approx(0.1 / 1e-9, rel=1e-5)
