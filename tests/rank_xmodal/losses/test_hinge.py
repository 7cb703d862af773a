import pytest
import torch

from rank_xmodal.losses import hinge


def test_a_margin_apart_is_enough():
    scores = torch.tensor([[2.0, 0.5, 1.5]], requires_grad=True)
    loss = hinge(scores, torch.tensor([[1, 0, 0]]))
    loss.backward()
    assert loss.item() == pytest.approx(0.5 / 2)
    torch.testing.assert_close(scores.grad, torch.tensor([[-0.5, 0.0, 0.5]]))


def test_torch_agrees():
    scores = torch.randn(6, 9)
    labels = torch.zeros(6, 9).scatter_(1, torch.randint(0, 9, (6, 1)), 1.0)
    positive, others = scores[labels == 1].repeat_interleave(8), scores[labels == 0]
    reference = torch.nn.functional.margin_ranking_loss(positive, others, torch.ones(48), margin=0.7)
    torch.testing.assert_close(hinge(scores, labels, margin=0.7), reference)
