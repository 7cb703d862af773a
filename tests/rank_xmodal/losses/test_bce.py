import math

import pytest
import torch

from rank_xmodal.losses import bce


def test_scores_of_0_give_ln_2(one_of_51):
    assert bce(*one_of_51).item() == pytest.approx(math.log(2), rel=1e-6)


def test_gradient_is_probability_minus_target():
    scores = torch.tensor([[0.3, -0.2, 1.0, 9.0]], requires_grad=True)
    bce(scores, torch.tensor([[1, 0, 2, -1]])).backward()
    expected = (scores.detach().sigmoid() - torch.tensor([[1.0, 0.0, 1.0, 0.0]])) / 3
    torch.testing.assert_close(scores.grad[0, :3], expected[0, :3])
    assert scores.grad[0, 3] == 0


def test_ten_thousand_off_keeps_the_full_gradient():
    scores = torch.tensor([[-1e4, 1e4]], requires_grad=True)
    loss = bce(scores, torch.tensor([[1, 0]]))
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    torch.testing.assert_close(scores.grad, torch.tensor([[-0.5, 0.5]]))


def test_the_level_of_the_scores_matters():
    labels = torch.tensor([[1, 0, 0]])
    assert bce(torch.tensor([[1.0, 0.0, 0.0]]), labels) > bce(torch.tensor([[0.0, -1.0, -1.0]]), labels)


def test_torch_agrees():
    scores, labels = torch.randn(6, 9), torch.zeros(6, 9).scatter_(1, torch.randint(0, 9, (6, 1)), 1.0)
    reference = torch.nn.functional.binary_cross_entropy_with_logits(scores, labels)
    torch.testing.assert_close(bce(scores, labels), reference)


def test_allrank_agrees_up_to_the_mean_but_not_far_out(allrank):
    """It takes probabilities: beyond a score of 17 or so a wrong one is 1 in float32, and its gradient gone."""
    bce_of_allrank = pytest.importorskip("allrank.models.losses.bce").bce
    labels = torch.zeros(6, 9).scatter_(1, torch.randint(0, 9, (6, 1)), 1.0)
    scores = torch.randn(6, 9)
    torch.testing.assert_close(9 * bce(scores, labels), bce_of_allrank(scores.sigmoid(), labels))
    wrong = torch.tensor([[0.0, 30.0]], requires_grad=True)
    bce_of_allrank(wrong.sigmoid(), torch.tensor([[1.0, 0.0]])).backward()
    assert wrong.grad[0, 1] == 0
    wrong.grad = None
    bce(wrong, torch.tensor([[1.0, 0.0]])).backward()
    assert wrong.grad[0, 1] == pytest.approx(0.5)
