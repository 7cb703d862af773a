import math

import pytest
import torch

from rank_xmodal import metrics
from rank_xmodal.losses import approxndcg


def test_tends_to_minus_ndcg():
    scores, labels = torch.rand(8, 20).argsort(1).double(), torch.randint(-1, 4, (8, 20))
    loss = approxndcg(scores, labels, alpha=50.0, reduction="none")
    torch.testing.assert_close(loss, -metrics.ndcg(scores, labels, k=20))


def test_equal_scores_of_51_stand_at_rank_26(one_of_51):
    assert approxndcg(*one_of_51).item() == pytest.approx(-1 / math.log2(27), rel=1e-6)


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
