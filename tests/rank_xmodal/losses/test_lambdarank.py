import math

import pytest
import torch

from rank_xmodal.losses import lambdarank

CASES = {
    "perfect": ([3.0, 1.0, -1.0], [1, 0, 0]),
    "middle": ([1.0, 3.0, -1.0], [1, 0, 0]),
    "worst": ([-1.0, 3.0, 1.0], [1, 0, 0]),
    "two relevant": ([0.5, 0.2, -0.3, 1.0], [0, 1, 1, 0]),
    "graded": ([0.5, 0.2, -0.3, 1.0], [3, 0, 1, 2]),
    "graded, lowest label 1": ([0.5, 0.2, -0.3], [2, 1, 1]),
    "tied": ([0.5, 0.5, 0.5, 0.1], [1, 0, 0, 2]),
    "padded": ([0.5, 7.0, -0.3, 1.0, 0.9], [1, -1, 0, -1, 0]),
}


def two_loops(scores, labels, sigma=1.0, k=None):
    items = [(s, y) for s, y in zip(scores, labels, strict=True) if y >= 0]
    k = k or len(items)
    order = sorted(range(len(items)), key=lambda i: (-items[i][0], items[i][1]))
    discount = {place: 1 / math.log2(rank + 2) if rank < k else 0.0 for rank, place in enumerate(order)}
    gains = sorted((2.0**y - 1 for _, y in items), reverse=True)
    ideal = sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains[:k]))
    total = 0.0
    for i, (score_i, label_i) in enumerate(items):
        for j, (score_j, label_j) in enumerate(items):
            if label_i > label_j:
                change = (2.0**label_i - 2.0**label_j) * abs(discount[i] - discount[j]) / ideal
                total += change * math.log1p(math.exp(-sigma * (score_i - score_j)))
    return total


@pytest.mark.parametrize("k", [None, 1, 2, 10])
@pytest.mark.parametrize("sigma", [1.0, 2.5])
@pytest.mark.parametrize("case", CASES)
def test_equals_two_loops(case, sigma, k):
    scores, labels = CASES[case]
    loss = lambdarank(torch.tensor([scores]), torch.tensor([labels]), sigma=sigma, k=k)
    assert loss.item() == pytest.approx(two_loops(scores, labels, sigma, k), rel=1e-5)


def test_weights_are_constants_for_the_gradient():
    """d/ds of w log(1 + e^-(s0 - s1)) with w the NDCG lost by swapping ranks 1 and 2."""
    scores = torch.tensor([[0.0, 1.0]], requires_grad=True)
    lambdarank(scores, torch.tensor([[1, 0]])).backward()
    weight, slope = 1 - 1 / math.log2(3), 1 / (1 + math.exp(-1.0))
    torch.testing.assert_close(scores.grad, torch.tensor([[-weight * slope, weight * slope]]))


@pytest.mark.parametrize("place", [0, 2])
def test_at_equal_scores_the_storage_order_does_not_matter(place):
    labels = torch.zeros(1, 3).index_fill_(1, torch.tensor([place]), 1.0)
    # The positive is taken to stand at rank 3, behind both items it ties with: D(1) - D(3) and D(2) - D(3).
    expected = math.log(2) * ((1 - 0.5) + (1 / math.log2(3) - 0.5))
    assert lambdarank(torch.zeros(1, 3), labels).item() == pytest.approx(expected, rel=1e-6)


def test_positive_ten_thousand_below_keeps_its_gradient():
    scores = torch.tensor([[-1e4, 1.0, 0.0]], requires_grad=True)
    loss = lambdarank(scores, torch.tensor([[1, 0, 0]]))
    loss.backward()
    weights = torch.tensor([1 - 0.5, 1 / math.log2(3) - 0.5])
    assert loss.item() == pytest.approx(1e4 * weights.sum().item(), rel=1e-3)
    torch.testing.assert_close(scores.grad, torch.tensor([[-weights.sum(), weights[0], weights[1]]]))


def long_list():
    """51 items, the only positive at rank 31."""
    scores = -torch.arange(51.0)[None] / 10
    labels = torch.zeros(1, 51)
    labels[0, 30] = 1
    return scores.requires_grad_(), labels


def test_truncation_keeps_pairs_with_either_item_in_the_top_k():
    scores, labels = long_list()
    lambdarank(scores, labels, k=10).backward()
    assert scores.grad[0, 30] < -0.1
    assert (scores.grad[0, :10] > 0).all()
    assert (scores.grad[0, 10:30] == 0).all(), "pairs entirely below k weigh nothing"


@pytest.mark.parametrize("k", [0, -1, 2.0, True])
def test_bad_k(k):
    with pytest.raises(ValueError, match=r"k is .*at least 1"):
        lambdarank(torch.zeros(1, 2), torch.zeros(1, 2), k=k)


def test_bad_sigma():
    with pytest.raises(ValueError, match=r"sigma is -1\.0: .*above 0"):
        lambdarank(torch.zeros(1, 2), torch.zeros(1, 2), sigma=-1.0)


def allrank_lambdarank(allrank, scores, labels, **settings):
    return allrank.losses.lambdaLoss(scores, labels, weighing_scheme="lambdaRank_scheme", **settings)


@pytest.mark.parametrize(("log", "factor"), [("natural", 1.0), ("binary", 1 / math.log(2))])
@pytest.mark.parametrize("graded", [False, True])
def test_allrank_agrees_up_to_log_and_sum(allrank, graded, log, factor):
    labels = torch.randint(0, 4, (8, 7)) if graded else torch.zeros(8, 7).index_fill_(1, torch.tensor([2]), 1.0)
    labels = labels.float().index_fill_(1, torch.tensor([6]), -1.0)
    scores = torch.randn(8, 7)
    ours, theirs = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    loss = lambdarank(ours, labels, reduction="none").sum() * factor
    reference = allrank_lambdarank(allrank, theirs, labels, reduction_log=log)
    torch.testing.assert_close(loss, reference)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_allrank_grows_with_the_batch(allrank):
    scores, labels = torch.randn(4, 7), torch.zeros(4, 7).index_fill_(1, torch.tensor([2]), 1.0)
    once, twice = (scores, labels), (scores.repeat(2, 1), labels.repeat(2, 1))
    torch.testing.assert_close(allrank_lambdarank(allrank, *twice), 2 * allrank_lambdarank(allrank, *once))
    torch.testing.assert_close(lambdarank(*twice), lambdarank(*once))


def test_allrank_truncation_drops_a_positive_below_k(allrank):
    scores, labels = long_list()
    allrank_lambdarank(allrank, scores, labels, k=10).backward()
    assert (scores.grad == 0).all()


def test_allrank_clamp_kills_the_gradient_of_a_badly_ranked_positive(allrank):
    scores = torch.tensor([[-30.0, 0.0]], requires_grad=True)
    allrank_lambdarank(allrank, scores, torch.tensor([[1.0, 0.0]])).backward()
    assert (scores.grad == 0).all()
    lambdarank(scores, torch.tensor([[1.0, 0.0]])).backward()
    assert scores.grad[0, 0] < -0.3
