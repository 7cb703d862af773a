import math

import pytest
import torch

from rank_xmodal.losses import bce

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


def two_loops(scores, labels):
    terms = []
    for wanted in (True, False):
        for score, label in zip(scores, labels, strict=True):
            if label >= 0 and (label > 0) == wanted:
                probability = 1 / (1 + math.exp(-score))
                terms.append(-math.log(probability if wanted else 1 - probability))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("case", CASES)
def test_equals_two_loops(case):
    scores, labels = CASES[case]
    loss = bce(torch.tensor([scores]), torch.tensor([labels]))
    assert loss.item() == pytest.approx(two_loops(scores, labels), rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_gradcheck(case):
    scores, labels = (torch.tensor([values], dtype=torch.float64) for values in CASES[case])
    assert torch.autograd.gradcheck(lambda s: bce(s, labels), (scores.requires_grad_(),))


def test_scores_of_0_give_ln_2_wherever_the_positive_is_stored():
    for place in (0, 3, 50):
        labels = torch.zeros(1, 51).index_fill_(1, torch.tensor([place]), 1.0)
        assert bce(torch.zeros(1, 51), labels).item() == pytest.approx(math.log(2), rel=1e-6)


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


@pytest.mark.parametrize("labels", [[[1, 1, 1]], [[2, 1, -1]], [[0, 0, 0]]])
def test_lists_of_one_kind_teach_nothing(labels):
    scores = torch.randn(1, 3, requires_grad=True)
    loss = bce(scores, torch.tensor(labels))
    loss.backward()
    assert loss.item() == 0.0
    assert (scores.grad == 0).all()


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
