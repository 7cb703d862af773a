import pytest
import torch

from rank_xmodal.metrics import mrr


def test_is_one_over_the_rank_of_the_first_relevant_item(sample):
    expected = [next((1 / (i + 1) for i, y in enumerate(ranked) if y > 0), 0.0) for ranked in sample.ranked]
    assert mrr(sample.scores, sample.labels).tolist() == pytest.approx(expected)


def test_random_order_of_51(lists):
    assert mrr(*lists.every_position()).mean().item() == pytest.approx(0.08860, abs=5e-6)


def test_constant_scorer_does_not_beat_chance(lists):
    _, labels = lists.every_position()
    assert mrr(torch.zeros(51, 51), labels).mean().item() == pytest.approx(1 / 51)


def test_a_list_without_a_relevant_item_is_a_miss():
    assert mrr(torch.zeros(2, 3), torch.tensor([[0, 0, 0], [-1, -1, -1]])).tolist() == [0.0, 0.0]
