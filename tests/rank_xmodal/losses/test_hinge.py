import math

import pytest
import torch

from rank_xmodal.losses import hinge

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


def two_loops(scores, labels, margin=1.0):
    terms = []
    for i in range(len(scores)):
        for j in range(len(scores)):
            if labels[i] > labels[j] >= 0:
                terms.append(max(0.0, margin - (scores[i] - scores[j])))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("margin", [1.0, 0.2, 5])
@pytest.mark.parametrize("case", CASES)
def test_equals_two_loops(case, margin):
    scores, labels = CASES[case]
    loss = hinge(torch.tensor([scores]), torch.tensor([labels]), margin=margin)
    assert loss.item() == pytest.approx(two_loops(scores, labels, margin), rel=1e-5)


@pytest.mark.parametrize("margin", [0.9, 2.7])
@pytest.mark.parametrize("case", CASES)
def test_gradcheck(case, margin):
    """At margins that no difference of these scores equals, where the loss has a corner."""
    scores, labels = (torch.tensor([values], dtype=torch.float64) for values in CASES[case])
    assert torch.autograd.gradcheck(lambda s: hinge(s, labels, margin=margin), (scores.requires_grad_(),))


def test_lists_with_different_numbers_of_positives_keep_their_own_pairs():
    scores = torch.randn(4, 6)
    labels = torch.tensor([[1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0], [0, 2, 1, 2, 0, -1], [3, 3, 1, 1, -1, -1]])
    expected = [two_loops(s, y) for s, y in zip(scores.tolist(), labels.tolist(), strict=True)]
    torch.testing.assert_close(hinge(scores, labels, reduction="none"), torch.tensor(expected))


def test_a_margin_apart_is_enough():
    scores = torch.tensor([[2.0, 0.5, 1.5]], requires_grad=True)
    loss = hinge(scores, torch.tensor([[1, 0, 0]]))
    loss.backward()
    assert loss.item() == pytest.approx(0.5 / 2)
    torch.testing.assert_close(scores.grad, torch.tensor([[-0.5, 0.0, 0.5]]))


@pytest.mark.parametrize("place", [0, 1, 4])
def test_at_equal_scores_the_storage_order_does_not_matter(place):
    scores = torch.zeros(1, 5, requires_grad=True)
    loss = hinge(scores, torch.zeros(1, 5).index_fill_(1, torch.tensor([place]), 1.0), margin=3.0)
    loss.backward()
    assert loss.item() == pytest.approx(3.0)
    expected = torch.full((1, 5), 0.25).index_fill_(1, torch.tensor([place]), -1.0)
    torch.testing.assert_close(scores.grad, expected)


def test_positive_ten_thousand_below_keeps_its_full_gradient():
    scores = torch.tensor([[-1e4, 0.0, 0.0]], requires_grad=True)
    loss = hinge(scores, torch.tensor([[1, 0, 0]]))
    loss.backward()
    assert loss.item() == pytest.approx(1e4 + 1)
    torch.testing.assert_close(scores.grad, torch.tensor([[-1.0, 0.5, 0.5]]))


@pytest.mark.parametrize("margin", [0, -1.0, math.inf, math.nan, "wide", True])
def test_bad_margin(margin):
    with pytest.raises(ValueError, match=r"margin is .*above 0"):
        hinge(torch.zeros(1, 2), torch.zeros(1, 2), margin=margin)


def test_torch_agrees():
    scores = torch.randn(6, 9)
    labels = torch.zeros(6, 9).scatter_(1, torch.randint(0, 9, (6, 1)), 1.0)
    positive, others = scores[labels == 1].repeat_interleave(8), scores[labels == 0]
    reference = torch.nn.functional.margin_ranking_loss(positive, others, torch.ones(48), margin=0.7)
    torch.testing.assert_close(hinge(scores, labels, margin=0.7), reference)
