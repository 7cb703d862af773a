"""The weights: the loss that they lower, and that a penalty needs no evidence to be infinite."""

import numpy as np
import pytest
import torch

from rank_xmodal import losses
from rank_xmodal.metrics.mrr import mrr
from rank_xmodal.scorers.context_aware.solve import Lists, any_on_top, choose, solve


def lists(true, count=300, length=12, seed=0, noise=1.0):
    """One relevant item a list, drawn by the softmax of the base and `true` . z."""
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(count, length, len(true), generator=draw)
    base = torch.randn(count, length, generator=draw)
    scores = base + z @ torch.tensor(true)
    gumbel = -torch.log(-torch.log(torch.rand(count, length, generator=draw)))
    labels = torch.nn.functional.one_hot((scores + noise * gumbel).argmax(1), length)
    return Lists(z, base, labels, np.arange(count) % 5, np.arange(count))


def test_planted_weights_are_found():
    found = solve(lists([2.0, -1.0, 0.0], count=3000), losses.get("listnet"), 1.0, 1e-3, np.zeros(3))
    assert found == pytest.approx([2.0, -1.0, 0.0], abs=0.25)


def test_an_infinite_penalty_returns_the_start_and_a_large_one_stays_near():
    given, start = lists([2.0, -1.0]), np.array([0.3, 0.1])
    assert solve(given, losses.get("ranknet"), 1.0, float("inf"), start) is start
    near = solve(given, losses.get("listnet"), 1.0, 1e6, start)
    far = solve(given, losses.get("listnet"), 1.0, 1.0, start)
    assert np.abs(near - start).max() < 0.01 < np.abs(far - start).max()


@pytest.mark.parametrize("loss", ["listnet", "lambdarank", "ranknet", "neuralndcg"])
def test_the_inner_folds_choose_weights_where_there_is_something_to_learn(loss):
    penalty, w = choose(lists([3.0, -3.0], noise=0.5), losses.get(loss), 50.0, lambda fold: np.zeros(2))
    assert np.isfinite(penalty)
    assert w[0] > 0.2
    assert w[1] < -0.2


@pytest.mark.parametrize("seed", range(4))
def test_without_evidence_they_choose_the_base_alone(seed):
    _, w = choose(lists([0.0] * 8, seed=seed), losses.get("listnet"), 1.0, lambda fold: np.zeros(8))
    given = lists([0.0] * 8, count=2000, seed=seed + 100)
    gain = mrr(given.base + given.z @ torch.from_numpy(w).float(), given.labels).mean()
    assert gain >= mrr(given.base, given.labels).mean() - 0.02


def test_several_relevant_items_are_joined_and_one_is_left_as_it_is():
    scores = torch.tensor([[1.0, 2.0, 3.0, 9.0], [0.5, 1.5, 2.5, 3.5]])
    labels = torch.tensor([[0, 1, 1, -1], [1, 0, 0, 0]])
    joined, one = any_on_top(scores, labels)
    assert one.tolist() == [[0, 1, -1, -1], [1, 0, 0, 0]]
    assert joined[0, 1] == pytest.approx(np.log(np.exp(2) + np.exp(3)), abs=1e-5)
    assert torch.equal(joined[1], scores[1])
    # As a loss: any of them on top, logsumexp of all less logsumexp of the relevant.
    expected = [
        np.log(np.exp([1, 2, 3]).sum()) - np.log(np.exp([2, 3]).sum()),
        np.log(np.exp([0.5, 1.5, 2.5, 3.5]).sum()) - 0.5,
    ]
    assert float(losses.listnet(joined, one)) == pytest.approx(np.mean(expected), abs=1e-5)


def test_ties_count_against_the_relevant_item():
    scores, labels = torch.tensor([[1.0, 1.0, 0.0, 5.0]]), torch.tensor([[1, 0, 0, -1]])
    assert mrr(scores, labels).tolist() == [0.5]
