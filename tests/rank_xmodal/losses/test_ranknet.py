import math

import pytest
import torch

from rank_xmodal.losses import ranknet

CASES = {
    "perfect": ([3.0, 1.0, -1.0], [1, 0, 0]),
    "middle": ([1.0, 3.0, -1.0], [1, 0, 0]),
    "worst": ([-1.0, 3.0, 1.0], [1, 0, 0]),
    "two relevant": ([0.5, 0.2, -0.3, 1.0], [0, 1, 1, 0]),
    "graded": ([0.5, 0.2, -0.3, 1.0], [3, 0, 1, 2]),
    "graded, lowest label 1": ([0.5, 0.2, -0.3], [2, 1, 1]),
    "padded": ([0.5, 7.0, -0.3, 1.0], [1, -1, 0, -1]),
}


def two_loops(scores, labels, sigma=1.0):
    terms = []
    for i in range(len(scores)):
        for j in range(len(scores)):
            if labels[i] > labels[j] >= 0:
                terms.append(math.log1p(math.exp(-sigma * (scores[i] - scores[j]))))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("sigma", [1.0, 2.5])
@pytest.mark.parametrize("case", CASES)
def test_equals_two_loops(case, sigma):
    scores, labels = CASES[case]
    loss = ranknet(torch.tensor([scores]), torch.tensor([labels]), sigma=sigma)
    assert loss.item() == pytest.approx(two_loops(scores, labels, sigma), rel=1e-5)


def test_lists_with_different_numbers_of_positives_keep_their_own_pairs():
    """The pair tensor is as wide as the list with most positives; the others must not gain or lose pairs by it."""
    scores = torch.randn(4, 6)
    labels = torch.tensor([[1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0], [0, 2, 1, 2, 0, -1], [3, 3, 1, 1, -1, -1]])
    expected = [two_loops(s, y) for s, y in zip(scores.tolist(), labels.tolist(), strict=True)]
    torch.testing.assert_close(ranknet(scores, labels, reduction="none"), torch.tensor(expected))


def test_equal_scores_of_51_give_ln_2():
    labels = torch.zeros(1, 51)
    labels[0, [3, 9]] = 1
    assert ranknet(torch.zeros(1, 51), labels).item() == pytest.approx(math.log(2), rel=1e-6)


def test_positive_ten_thousand_below_keeps_its_full_gradient():
    scores = torch.tensor([[-1e4, 0.0, 0.0]], requires_grad=True)
    loss = ranknet(scores, torch.tensor([[1, 0, 0]]), sigma=2.0)
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    torch.testing.assert_close(scores.grad, torch.tensor([[-2.0, 1.0, 1.0]]))


@pytest.mark.parametrize("sigma", [0, -1.0, math.inf, math.nan, "steep"])
def test_bad_sigma(sigma):
    with pytest.raises(ValueError, match=r"sigma is .*above 0"):
        ranknet(torch.zeros(1, 2), torch.zeros(1, 2), sigma=sigma)


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
