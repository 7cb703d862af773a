import math

import pytest
import torch

from rank_xmodal.losses import listnet, softmax

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
    terms = []
    for score, label in items:
        if label > 0:
            normaliser = math.exp(score)
            for other, other_label in items:
                if other_label == 0:
                    normaliser += math.exp(other)
            terms.append(-math.log(math.exp(score) / normaliser))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("temperature", [1.0, 0.25])
@pytest.mark.parametrize("case", CASES)
def test_equals_two_loops(case, temperature):
    scores, labels = CASES[case]
    loss = softmax(torch.tensor([scores]), torch.tensor([labels]), temperature=temperature)
    assert loss.item() == pytest.approx(two_loops(scores, labels, temperature), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.25])
@pytest.mark.parametrize("case", CASES)
def test_gradcheck(case, temperature):
    scores, labels = (torch.tensor([values], dtype=torch.float64) for values in CASES[case])
    assert torch.autograd.gradcheck(lambda s: softmax(s, labels, temperature=temperature), (scores.requires_grad_(),))


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


def test_grades_do_not_matter():
    scores = torch.randn(1, 5)
    torch.testing.assert_close(
        softmax(scores, torch.tensor([[3, 0, 1, 0, 2]])), softmax(scores, torch.tensor([[1, 0, 1, 0, 1]]))
    )


def test_equal_scores_of_51_give_ln_51():
    labels = torch.zeros(1, 51)
    labels[0, 7] = 1
    assert softmax(torch.zeros(1, 51), labels).item() == pytest.approx(math.log(51), rel=1e-6)


@pytest.mark.parametrize("order", [(1, 0, 2, 3, 4), (4, 3, 2, 1, 0), (2, 4, 0, 1, 3)])
def test_at_equal_scores_the_storage_order_does_not_matter(order):
    labels = torch.tensor([[1, 1, 0, 0, 0]])[:, order]
    scores = torch.zeros(1, 5, requires_grad=True)
    softmax(scores, labels).backward()
    expected = torch.where(labels == 1, -0.75 / 2, 0.25)
    torch.testing.assert_close(scores.grad, expected)


def test_positive_ten_thousand_below_keeps_its_full_gradient():
    scores = torch.tensor([[-1e4, 0.0, 0.0]], requires_grad=True)
    loss = softmax(scores, torch.tensor([[1, 0, 0]]))
    loss.backward()
    assert loss.item() == pytest.approx(1e4, rel=1e-3)
    torch.testing.assert_close(scores.grad, torch.tensor([[-1.0, 0.5, 0.5]]))


@pytest.mark.parametrize("labels", [[[1, 1, 1]], [[2, 1, -1]]])
def test_lists_without_a_non_relevant_item_teach_nothing(labels):
    scores = torch.randn(1, 3, requires_grad=True)
    loss = softmax(scores, torch.tensor(labels))
    loss.backward()
    assert loss.item() == 0.0
    assert (scores.grad == 0).all()


@pytest.mark.parametrize("temperature", [0, -1.0, math.inf, math.nan, "warm", True])
def test_bad_temperature(temperature):
    with pytest.raises(ValueError, match=r"temperature is .*above 0"):
        softmax(torch.zeros(1, 2), torch.zeros(1, 2), temperature=temperature)
