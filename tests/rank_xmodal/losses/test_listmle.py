import itertools
import math

import pytest
import torch

from rank_xmodal.losses import listmle, softmax


def plackett_luce(ordered):
    """Probability that items with these scores are drawn in this order."""
    return math.prod(math.exp(s) / sum(map(math.exp, ordered[i:])) for i, s in enumerate(ordered))


def exact(scores, labels):
    """-log of the probability that the labels come in a falling order, summed over all orders of equal labels."""
    items = [(s, y) for s, y in zip(scores, labels, strict=True) if y >= 0]
    falling = sorted((y for _, y in items), reverse=True)
    orders = (order for order in itertools.permutations(items) if [y for _, y in order] == falling)
    return -math.log(sum(plackett_luce([s for s, _ in order]) for order in orders))


def test_without_equal_labels_it_is_the_plackett_luce_likelihood():
    scores = [0.3, -0.5, 1.2, 0.1]
    loss = listmle(torch.tensor([scores]), torch.tensor([[2, 1, 0, 3]]))
    assert loss.item() == pytest.approx(-math.log(plackett_luce([0.1, 0.3, -0.5, 1.2])), rel=1e-5)


@pytest.mark.parametrize("labels", [[1, 0, 0, 0, 0], [0, 3, 2, 0, 0], [4, 0, 1, 3, 2]])
def test_is_exact_when_only_the_lowest_label_is_shared(labels):
    scores = [0.3, -0.5, 1.2, 0.1, -1.0]
    loss = listmle(torch.tensor([scores]), torch.tensor([labels]))
    assert loss.item() == pytest.approx(exact(scores, labels), rel=1e-5)


@pytest.mark.parametrize("labels", [[1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [2, 1, 2, 1, 0], [3, 3, 3, 1, 1]])
def test_bounds_the_exact_likelihood(labels):
    for scores in (2 * torch.randn(10, 5)).tolist():
        loss, least = listmle(torch.tensor([scores]), torch.tensor([labels])).item(), exact(scores, labels)
        assert least < loss < 2 * least + 1


def test_on_binary_labels_it_is_softmax_times_the_relevant_items():
    scores, labels = torch.randn(1, 9), torch.tensor([[1, 0, 1, 0, 0, 1, 0, -1, 0]])
    torch.testing.assert_close(listmle(scores, labels), 3 * softmax(scores, labels))


def test_equal_scores_of_51_give_ln_51(one_of_51):
    assert listmle(*one_of_51).item() == pytest.approx(math.log(51), rel=1e-6)


def test_allrank_agrees_without_equal_labels(allrank):
    scores, labels = torch.randn(8, 6), torch.rand(8, 6).argsort(1).float()
    ours, theirs = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    loss, reference = listmle(ours, labels), allrank.losses.listMLE(theirs, labels)
    torch.testing.assert_close(loss, reference)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_allrank_teaches_the_order_of_non_relevant_items(allrank):
    """It breaks equal labels at random, so that its terms for the non-relevant items are noise."""
    labels = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    gradients = {}
    for name, loss in (("ours", listmle), ("allrank", allrank.losses.listMLE)):
        scores = torch.zeros(1, 4, requires_grad=True)
        loss(scores, labels).backward()
        gradients[name] = scores.grad[0, 1:]
    assert gradients["ours"].std() < 1e-6
    assert gradients["allrank"].std() > 0.1


def test_allrank_pulls_up_the_lowest_of_the_items_far_below_the_best(allrank):
    """Its log(sum + 1e-10) is flat for items 40 below the highest score, which leaves the pull of their own scores."""
    labels = torch.tensor([[2.0, 1.0, 0.0]])
    gradients = {}
    for name, loss in (("ours", listmle), ("allrank", allrank.losses.listMLE)):
        scores = torch.tensor([[40.0, 0.0, 0.0]], requires_grad=True)
        loss(scores, labels).backward()
        gradients[name] = scores.grad[0, 2].item()
    assert gradients["ours"] == pytest.approx(0.5)
    assert gradients["allrank"] < -0.9
