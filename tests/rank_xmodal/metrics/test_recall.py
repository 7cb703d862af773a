import pytest
import torch

from rank_xmodal.metrics import recall


@pytest.mark.parametrize("k", [1, 3, 12, 100])
def test_is_the_share_of_relevant_items_found(sample, k):
    expected = [sum(y > 0 for y in ranked[:k]) / max(1, sum(y > 0 for y in ranked)) for ranked in sample.ranked]
    assert recall(sample.scores, sample.labels, k).tolist() == pytest.approx(expected)


def test_differs_from_the_hit_rate_with_several_relevant_items():
    scores, labels = torch.tensor([[3.0, 2.0, 1.0, 0.0]]), torch.tensor([[1, 0, 1, 1]])
    assert recall(scores, labels, k=1).item() == pytest.approx(1 / 3)
