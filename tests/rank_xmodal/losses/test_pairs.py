"""The pairs of a batch against two plain loops."""

import pytest
import torch

from rank_xmodal.losses._lists import prepare
from rank_xmodal.losses._pairs import distance, preferred_pairs


def found(pairs, row):
    """The pairs (i, j) that the mask keeps, with their score differences."""
    kept = pairs.mask[row].nonzero().tolist()
    return {(pairs.preferred[row, p].item(), j): pairs.difference[row, p, j].item() for p, j in kept}


@pytest.mark.parametrize("seed", range(5))
def test_pairs_equal_two_loops(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(5, 8, generator=generator)
    labels = torch.randint(-1, 3, (5, 8), generator=generator)
    labels[0], labels[1] = -1, 1
    pairs = preferred_pairs(*prepare(scores, labels, "mean"))
    for row in range(5):
        s, y = scores[row].tolist(), labels[row].tolist()
        expected = {(i, j): s[i] - s[j] for i in range(8) for j in range(8) if y[i] > y[j] >= 0}
        assert found(pairs, row) == pytest.approx(expected)


def test_the_tensors_are_as_wide_as_the_items_that_may_be_preferred():
    labels = torch.zeros(3, 51)
    labels[0, [4, 9]] = 1
    assert preferred_pairs(*prepare(torch.randn(3, 51), labels, "mean")).difference.shape == (3, 2, 51)


def test_distance():
    values, preferred = torch.tensor([[1.0, 4.0, 2.0]]), torch.tensor([[1, 0]])
    assert distance(values, preferred).tolist() == [[[3.0, 0.0, 2.0], [0.0, 3.0, 1.0]]]
