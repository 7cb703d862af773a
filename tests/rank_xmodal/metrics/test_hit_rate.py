import pytest
import torch

from rank_xmodal.metrics import hit_rate


@pytest.mark.parametrize("k", [1, 3, 12, 100])
def test_counts_lists_with_a_relevant_item_in_the_top_k(sample, k):
    expected = [float(any(y > 0 for y in ranked[:k])) for ranked in sample.ranked]
    assert hit_rate(sample.scores, sample.labels, k).tolist() == expected


@pytest.mark.parametrize(("k", "expected"), [(1, 0.019608), (5, 0.09804), (10, 0.19608)])
def test_random_order_of_51(lists, k, expected):
    assert hit_rate(*lists.every_position(), k).mean().item() == pytest.approx(expected, abs=5e-6)


def test_constant_scorer_does_not_beat_chance(lists):
    _, labels = lists.every_position()
    assert hit_rate(torch.zeros(51, 51), labels, k=10).mean() == 0.0


@pytest.mark.parametrize("k", [0, -1, 1.0, True])
def test_bad_k(k):
    with pytest.raises(ValueError, match=f"k is {k}: pass an integer of at least 1"):
        hit_rate(torch.zeros(1, 2), torch.zeros(1, 2), k)
