"""Gains and ranks against plain Python."""

import math

import pytest
import torch

from rank_xmodal.losses._dcg import discounts, gains, ideal_dcg, ranks
from rank_xmodal.losses._lists import prepare


def test_gains_are_those_of_ndcg_up_to_a_factor_per_list():
    labels = torch.tensor([[0.0, 1, 2, 3, -1], [1, 0, 1, -1, -1]])
    expected = torch.tensor([[0.0, 1, 3, 7, 0], [1, 0, 1, 0, 0]]) / torch.tensor([[8.0], [2.0]])
    assert torch.equal(gains(labels), expected)


@pytest.mark.parametrize("grade", [100, 127, 1000])
def test_the_highest_grades_do_not_overflow(grade):
    gain = gains(torch.tensor([[grade, grade, grade, 0.0, -1]]))
    assert torch.equal(gain, torch.tensor([[1.0, 1, 1, 0, 0]]))
    assert ideal_dcg(gain, discounts(5, None, like=gain)).item() == pytest.approx(1 + 1 / math.log2(3) + 0.5)


def test_a_list_without_relevant_items_gains_nothing():
    assert gains(torch.tensor([[0.0, 0, -1], [-1, -1, -1]])).count_nonzero() == 0


def test_discounts_end_at_k():
    assert discounts(4, 2, like=torch.zeros(1)).tolist() == pytest.approx([1, 1 / math.log2(3), 0, 0])


@pytest.mark.parametrize("seed", range(5))
def test_ranks_equal_a_plain_sort(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(6, 9, generator=generator).round()
    labels = torch.randint(-1, 3, (6, 9), generator=generator)
    found = ranks(*prepare(scores, labels, "mean"))
    for row in range(6):
        s, y = scores[row].tolist(), labels[row].tolist()
        order = sorted((i for i in range(9) if y[i] >= 0), key=lambda i: (-s[i], y[i]))
        assert [found[row, i].item() for i in order] == list(range(len(order)))
        assert sorted(found[row].tolist()) == list(range(9)), "padding comes last, each place once"


def test_an_infinitely_low_score_still_stands_above_padding():
    scores, labels = torch.tensor([[0.0, -torch.inf, 0.0, 1.0]]), torch.tensor([[-1, 1, -1, 0]])
    assert ranks(*prepare(scores, labels, "mean"))[0, [3, 1]].tolist() == [0, 1]
