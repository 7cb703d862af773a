import math

import pytest
import torch

from rank_xmodal.losses import ranknet


def test_equal_scores_of_51_give_ln_2(one_of_51):
    assert ranknet(*one_of_51).item() == pytest.approx(math.log(2), rel=1e-6)


def test_allrank_agrees_where_every_list_has_as_many_pairs(allrank):
    """It averages over the pairs of the batch, we over the pairs of each list and then over the lists."""
    scores = torch.randn(8, 9)
    labels = torch.zeros(8, 9).scatter_(1, torch.randint(0, 9, (8, 1)), 1.0)
    ours, theirs = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    loss, reference = ranknet(ours, labels), allrank.losses.rankNet(theirs, labels)
    torch.testing.assert_close(loss, reference)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_allrank_gives_nan_without_a_pair(allrank):
    scores, labels = torch.zeros(1, 3, requires_grad=True), torch.zeros(1, 3)
    assert allrank.losses.rankNet(scores, labels).isnan()
    assert ranknet(scores, labels).item() == 0.0
