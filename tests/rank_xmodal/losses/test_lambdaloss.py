import itertools
import math

import pytest
import torch

from rank_xmodal import losses
from rank_xmodal.errors import UserError
from rank_xmodal.losses import lambdaloss, lambdarank

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
WEIGHTINGS = ("ndcg2++", "ndcg2", "ndcg1")
every_weighting = pytest.mark.parametrize("weighting", WEIGHTINGS)


def two_loops(scores, labels, weighting, mu=10.0, sigma=1.0, k=None):
    items = [(s, y) for s, y in zip(scores, labels, strict=True) if y >= 0]
    k = k or len(items)
    order = sorted(range(len(items)), key=lambda i: (-items[i][0], items[i][1]))
    rank = {place: rank for rank, place in enumerate(order, start=1)}
    gains = sorted((2.0**y - 1 for _, y in items), reverse=True)
    ideal = sum(gain / math.log2(1 + r) for r, gain in enumerate(gains[:k], start=1))

    def discount(r, last=math.inf):
        return 1 / math.log2(1 + r) if r <= last else 0.0

    total = 0.0
    for i, (score_i, label_i) in enumerate(items):
        for j, (score_j, label_j) in enumerate(items):
            if i == j or (weighting != "ndcg1" and label_i <= label_j):
                continue
            gain_i, gain_j = (2.0**label_i - 1) / ideal, (2.0**label_j - 1) / ideal
            distance = abs(rank[i] - rank[j])
            counts = min(rank[i], rank[j]) <= k
            loss1 = counts * gain_i * discount(rank[i])
            loss2 = counts * (gain_i - gain_j) * (discount(distance) - discount(distance + 1))
            swap = (gain_i - gain_j) * abs(discount(rank[i], k) - discount(rank[j], k))
            weight = {"ndcg1": loss1, "ndcg2": loss2, "ndcg2++": mu * loss2 + swap}[weighting]
            total += weight * math.log1p(math.exp(-sigma * (score_i - score_j)))
    return total


@every_weighting
@pytest.mark.parametrize("k", [None, 1, 2, 10])
@pytest.mark.parametrize(("sigma", "mu"), [(1.0, 10.0), (2.5, 0.5)])
@pytest.mark.parametrize("case", CASES)
def test_equals_two_loops(case, sigma, mu, k, weighting):
    scores, labels = CASES[case]
    settings = {"weighting": weighting, "mu": mu, "sigma": sigma, "k": k}
    loss = lambdaloss(torch.tensor([scores]), torch.tensor([labels]), **settings)
    assert loss.item() == pytest.approx(two_loops(scores, labels, **settings), rel=1e-5)


@every_weighting
@pytest.mark.parametrize("k", [None, 2])
def test_gradcheck(weighting, k):
    scores = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[1, 0, 0, 0, 0, -1], [2, 1, 1, 0, 0, 3], [0, 0, 1, 1, -1, -1], [2, 1, 1, 1, 1, 2]])
    assert torch.autograd.gradcheck(
        lambda s: lambdaloss(s, labels, weighting=weighting, k=k, reduction="none"), (scores,)
    )


@every_weighting
def test_lists_of_a_batch_keep_their_own_pairs(weighting):
    scores = torch.randn(4, 6)
    labels = torch.tensor([[1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0], [0, 2, 1, 2, 0, -1], [3, 3, 1, 1, -1, -1]])
    expected = [two_loops(s, y, weighting) for s, y in zip(scores.tolist(), labels.tolist(), strict=True)]
    torch.testing.assert_close(
        lambdaloss(scores, labels, weighting=weighting, reduction="none"), torch.tensor(expected)
    )


@pytest.mark.parametrize("k", [None, 3])
def test_2_plus_plus_is_lambdarank_and_mu_times_2(k):
    scores, labels = torch.randn(8, 7), torch.randint(-1, 4, (8, 7))
    expected = lambdarank(scores, labels, k=k) + 4.0 * lambdaloss(scores, labels, weighting="ndcg2", k=k)
    torch.testing.assert_close(lambdaloss(scores, labels, mu=4.0, k=k), expected)
    torch.testing.assert_close(lambdaloss(scores, labels, mu=1e-9, k=k), lambdarank(scores, labels, k=k))


@every_weighting
@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_at_equal_scores_the_storage_order_does_not_matter(place, k, weighting):
    labels = torch.zeros(1, 5).index_fill_(1, torch.tensor([place]), 1.0)
    loss = lambdaloss(torch.zeros(1, 5), labels, weighting=weighting, k=k)
    # The positive is taken to stand last, behind all that it ties with.
    assert loss.item() == pytest.approx(two_loops([0.0] * 5, [0, 0, 0, 0, 1], weighting, k=k), rel=1e-5)


def test_at_equal_scores_2_pushes_the_nearest_hardest():
    """The positive last, the others 1, 2 and 3 ranks above it, at D(1) - D(2), D(2) - D(3) and D(3) - D(4)."""
    scores = torch.zeros(1, 4, requires_grad=True)
    lambdaloss(scores, torch.tensor([[1, 0, 0, 0]]), weighting="ndcg2").backward()
    discounts = [1 / math.log2(1 + r) for r in range(1, 5)]
    steps = sorted((a - b) / 2 for a, b in itertools.pairwise(discounts))
    assert sorted(scores.grad[0, 1:].tolist()) == pytest.approx(steps)
    assert scores.grad[0, 0].item() == pytest.approx(-sum(steps))


@every_weighting
def test_positive_ten_thousand_below_keeps_its_gradient(weighting):
    scores = torch.tensor([[-1e4, 1.0, 0.0]], requires_grad=True)
    loss = lambdaloss(scores, torch.tensor([[1, 0, 0]]), weighting=weighting)
    loss.backward()
    # log(1 + e^10000) is 10000: the loss is the weights times that, and their sum the gradient.
    assert loss.item() == pytest.approx(-1e4 * scores.grad[0, 0].item(), rel=1e-3)
    assert scores.grad[0, 0] < -0.3
    assert scores.grad.isfinite().all()


@every_weighting
def test_truncation_keeps_pairs_with_either_item_in_the_top_k(weighting):
    scores = (-torch.arange(51.0)[None] / 10).requires_grad_()
    labels = torch.zeros(1, 51)
    labels[0, 30] = 1
    lambdaloss(scores, labels, k=10, weighting=weighting).backward()
    assert scores.grad[0, 30] < -0.02
    assert (scores.grad[0, :10] > 0).all()
    assert (scores.grad[0, 10:30] == 0).all(), "pairs entirely below k weigh nothing"


@every_weighting
def test_lists_of_one_label_teach_nothing(weighting):
    scores = torch.randn(2, 3, requires_grad=True)
    loss = lambdaloss(scores, torch.tensor([[1, 1, 1], [2, 2, -1]]), weighting=weighting)
    loss.backward()
    assert loss.item() == 0.0
    assert (scores.grad == 0).all()


@every_weighting
def test_weighting_is_a_setting(weighting):
    scores, labels = torch.randn(3, 5), torch.randint(0, 3, (3, 5))
    loss = losses.get("lambdaloss", weighting=weighting)(scores, labels)
    torch.testing.assert_close(loss, lambdaloss(scores, labels, weighting=weighting))


@pytest.mark.parametrize("weighting", ["ndcg3", "NDCG1", 1, None, []])
def test_bad_weighting(weighting):
    with pytest.raises(UserError, match=r"weighting is .*: pass 'ndcg2\+\+', 'ndcg2' or 'ndcg1'"):
        losses.get("lambdaloss", weighting=weighting)


@pytest.mark.parametrize("name", ["mu", "sigma"])
@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan, "steep", True])
def test_bad_number(name, value):
    with pytest.raises(ValueError, match=rf"{name} is .*above 0"):
        lambdaloss(torch.zeros(1, 2), torch.zeros(1, 2), **{name: value})


@pytest.mark.parametrize("k", [0, -1, 2.0, True])
def test_bad_k(k):
    with pytest.raises(ValueError, match=r"k is .*at least 1"):
        lambdaloss(torch.zeros(1, 2), torch.zeros(1, 2), k=k)


SCHEMES = {"ndcg2++": "ndcgLoss2PP_scheme", "ndcg2": "ndcgLoss2_scheme", "ndcg1": "ndcgLoss1_scheme"}


@every_weighting
def test_allrank_agrees_up_to_its_own_pairs(allrank, weighting):
    """Its ndcg1 counts an item against itself: a number without a gradient, as its score difference is 0."""
    scores, labels = torch.randn(8, 7), torch.randint(0, 4, (8, 7)).float().index_fill_(1, torch.tensor([6]), -1.0)
    labels[:, 0], labels[:, 1] = 0, 1
    ours, theirs = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    loss = lambdaloss(ours, labels, weighting=weighting, reduction="none").sum()
    reference = allrank.losses.lambdaLoss(
        theirs, labels, weighing_scheme=SCHEMES[weighting], reduction_log="natural", eps=1e-30
    )
    if weighting != "ndcg1":
        torch.testing.assert_close(loss, reference)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
