"""Late interaction against loops over words and cells."""

import math

import pytest
import torch

from rank_xmodal.scorers.local.late_interaction import late_interaction, pooled


def plain(products, words, cells, pooling, sharpness):
    """Return what the words find, one after the other."""
    found = []
    for t in range(len(words)):
        if not words[t]:
            continue
        seen = [float(products[t, p]) for p in range(len(cells)) if cells[p]]
        if pooling == "max":
            found.append(max(seen))
        elif pooling == "mean":
            found.append(sum(seen) / len(seen))
        else:
            found.append(math.log(sum(math.exp(sharpness * x) for x in seen) / len(seen)) / sharpness)
    return sum(found) / len(found)


@pytest.fixture
def pair():
    draw = torch.Generator().manual_seed(0)
    words = torch.tensor([True, True, False, True, False])
    cells = torch.tensor([True, False, True, True])
    return torch.rand(5, 4, generator=draw, dtype=torch.float64) * 2 - 1, words, cells


@pytest.mark.parametrize("pooling", ["max", "lse", "mean"])
@pytest.mark.parametrize("way", ["words", "cells", "both"])
def test_it_is_what_loops_find(pair, pooling, way):
    products, words, cells = pair
    by_words = plain(products, words, cells, pooling, 7.0)
    by_cells = plain(products.T, cells, words, pooling, 7.0)
    expected = {"words": by_words, "cells": by_cells, "both": (by_words + by_cells) / 2}[way]
    found = late_interaction(products, words, cells, pooling=pooling, way=way, sharpness=7.0)
    assert float(found) == pytest.approx(expected)


@pytest.mark.parametrize("pooling", ["max", "lse", "mean"])
def test_padding_changes_nothing(pair, pooling):
    products, words, cells = pair
    wild = torch.where(words[:, None] & cells, products, 9.0)
    one, two = (late_interaction(p, words, cells, pooling=pooling, way="both") for p in (products, wild))
    assert torch.equal(one, two)


def test_a_sharp_log_sum_exp_is_the_maximum_and_a_flat_one_the_mean(pair):
    products, _, cells = pair
    for sharpness, pooling in ((1e4, "max"), (1e-4, "mean")):
        found = pooled(products, cells, "lse", sharpness)
        torch.testing.assert_close(found, pooled(products, cells, pooling, 1.0), atol=2e-3, rtol=0)


@pytest.mark.parametrize("pooling", ["max", "lse", "mean"])
def test_gradients_are_those_of_differences(pair, pooling):
    products, words, cells = pair
    products.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: late_interaction(x, words, cells, pooling=pooling, way="both"), (products,), atol=1e-6
    )
