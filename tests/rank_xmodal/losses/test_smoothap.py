import math

import pytest
import torch

from rank_xmodal.losses import smoothap

CASES = {
    "perfect": ([3.0, 1.0, -1.0], [1, 0, 0]),
    "middle": ([1.0, 3.0, -1.0], [1, 0, 0]),
    "worst": ([-1.0, 3.0, 1.0], [1, 0, 0]),
    "two relevant": ([0.5, 0.2, -0.3, 1.0], [0, 1, 1, 0]),
    "graded": ([0.5, 0.2, -0.3, 1.0], [3, 0, 1, 2]),
    "tied": ([0.5, 0.5, 0.5, 0.1], [1, 0, 0, 2]),
    "constant": ([0.7, 0.7, 0.7, 0.7], [0, 1, 0, 0]),
    "padded": ([0.5, 7.0, -0.3, 1.0, 0.9], [1, -1, 0, -1, 0]),
}


def two_loops(scores, labels, temperature=1.0):
    items = [(s / temperature, y) for s, y in zip(scores, labels, strict=True) if y >= 0]
    precisions = []
    for i, (score_i, label_i) in enumerate(items):
        if label_i > 0:
            rank = rank_in_relevant = 1.0
            for j, (score_j, label_j) in enumerate(items):
                if j != i:
                    above = 1 / (1 + math.exp(-(score_j - score_i)))
                    rank += above
                    rank_in_relevant += above * (label_j > 0)
            precisions.append(rank_in_relevant / rank)
    return 1 - sum(precisions) / len(precisions)


def average_precision(scores, labels):
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    found, precisions = 0, []
    for rank, place in enumerate(order, start=1):
        if labels[place] > 0:
            found += 1
            precisions.append(found / rank)
    return sum(precisions) / len(precisions)


@pytest.mark.parametrize("temperature", [1.0, 0.05])
@pytest.mark.parametrize("case", CASES)
def test_equals_two_loops(case, temperature):
    scores, labels = CASES[case]
    loss = smoothap(torch.tensor([scores]), torch.tensor([labels]), temperature=temperature)
    assert loss.item() == pytest.approx(two_loops(scores, labels, temperature), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.2])
@pytest.mark.parametrize("case", CASES)
def test_gradcheck(case, temperature):
    scores, labels = (torch.tensor([values], dtype=torch.float64) for values in CASES[case])
    assert torch.autograd.gradcheck(lambda s: smoothap(s, labels, temperature=temperature), (scores.requires_grad_(),))


def test_tends_to_1_minus_average_precision():
    scores, labels = torch.rand(8, 20).argsort(1).double(), torch.randint(0, 2, (8, 20))
    labels[:, 0], labels[:, 1] = 0, 1
    loss = smoothap(scores, labels, temperature=0.02, reduction="none")
    expected = [1 - average_precision(s, y) for s, y in zip(scores.tolist(), labels.tolist(), strict=True)]
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64))


def test_grades_do_not_matter():
    scores = torch.randn(1, 5)
    torch.testing.assert_close(
        smoothap(scores, torch.tensor([[3, 0, 1, 0, 2]])), smoothap(scores, torch.tensor([[1, 0, 1, 0, 1]]))
    )


def test_equal_scores_of_51_stand_at_rank_26():
    labels = torch.zeros(1, 51)
    labels[0, 7] = 1
    assert smoothap(torch.zeros(1, 51), labels).item() == pytest.approx(1 - 1 / 26, rel=1e-6)


@pytest.mark.parametrize("order", [(1, 0, 2, 3, 4), (4, 3, 2, 1, 0), (2, 4, 0, 1, 3)])
def test_at_equal_scores_the_storage_order_does_not_matter(order):
    labels = torch.tensor([[1, 1, 0, 0, 0]])[:, order]
    scores = torch.zeros(1, 5, requires_grad=True)
    loss = smoothap(scores, labels)
    loss.backward()
    # Each positive: 1 + 1/2 of the positives, 1 + 4/2 of all.
    assert loss.item() == pytest.approx(0.5)
    down = scores.grad[labels == 0]
    assert (down > 0).all()
    torch.testing.assert_close(scores.grad, torch.where(labels == 1, -down.sum() / 2, down[0]))


@pytest.mark.parametrize("gap", [1e2, 1e4, 1e30])
def test_extreme_scores_are_finite(gap):
    scores = torch.tensor([[-gap, gap, 0.0, 0.5]], requires_grad=True)
    loss = smoothap(scores, torch.tensor([[1, 0, 1, 0]]))
    loss.backward()
    assert 0 <= loss.item() <= 1
    assert scores.grad.isfinite().all()
    assert scores.grad[0, 2] < 0, "what is within reach still learns"


@pytest.mark.parametrize("labels", [[[1, 1, 1]], [[2, 1, -1]]])
def test_lists_without_a_non_relevant_item_teach_nothing(labels):
    scores = torch.randn(1, 3, requires_grad=True)
    loss = smoothap(scores, torch.tensor(labels))
    loss.backward()
    assert loss.item() == 0.0
    assert (scores.grad == 0).all()


@pytest.mark.parametrize("temperature", [0, -1.0, math.inf, math.nan, "warm", True])
def test_bad_temperature(temperature):
    with pytest.raises(ValueError, match=r"temperature is .*above 0"):
        smoothap(torch.zeros(1, 2), torch.zeros(1, 2), temperature=temperature)
