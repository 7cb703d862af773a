import math

import pytest
import torch

from rank_xmodal.losses import listnet, softmax


def test_is_listnet_with_one_relevant_item():
    scores, labels = torch.randn(8, 9), torch.zeros(8, 9).scatter_(1, torch.randint(0, 9, (8, 1)), 1.0)
    torch.testing.assert_close(softmax(scores, labels), listnet(scores, labels))
    torch.testing.assert_close(softmax(scores, labels, temperature=0.2), listnet(scores, labels, temperature=0.2))


def test_relevant_items_do_not_hold_each_other_back_as_in_listnet():
    gradients = {}
    for name, loss in (("softmax", softmax), ("listnet", listnet)):
        scores = torch.tensor([[5.0, 0.0, 1.0, 1.0]], requires_grad=True)
        loss(scores, torch.tensor([[1, 1, 0, 0]])).backward()
        gradients[name] = scores.grad[0, 0].item()
    assert gradients["softmax"] < 0
    assert gradients["listnet"] > 0.3


def test_equal_scores_of_51_give_ln_51(one_of_51):
    assert softmax(*one_of_51).item() == pytest.approx(math.log(51), rel=1e-6)
