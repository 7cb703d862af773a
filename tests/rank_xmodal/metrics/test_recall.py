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


def test_relevant_items_outside_the_list_count_as_not_found():
    scores, labels = torch.tensor([[3.0, 2.0], [3.0, 2.0], [3.0, 2.0]]), torch.tensor([[1, 0], [0, 0], [0, 0]])
    assert recall(scores, labels, k=2, n_relevant=torch.tensor([5, 1, 0])).tolist() == [0.2, 0.0, 0.0]


def test_n_relevant_below_what_the_list_holds():
    labels = torch.tensor([[1, 0], [1, 1]])
    with pytest.raises(ValueError, match="n_relevant is 1 for query 1, whose list holds 2"):
        recall(torch.zeros(2, 2), labels, k=1, n_relevant=torch.tensor([1, 1]))


def test_n_relevant_of_another_shape():
    with pytest.raises(ValueError, match=r"n_relevant has shape \(3,\): pass one count per query, 2"):
        recall(torch.zeros(2, 2), torch.zeros(2, 2), k=1, n_relevant=torch.ones(3))
