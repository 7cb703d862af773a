import pytest
import torch
from sklearn.metrics import average_precision_score

from rank_xmodal.metrics import map_at_k


@pytest.mark.parametrize("graded", [False, True])
def test_equals_scikit_learn_on_whole_lists_without_ties(lists, graded):
    scores, labels = lists.random(5, graded=graded)
    values = map_at_k(scores, labels, k=12)
    checked = 0
    for row, judged, value in zip(scores, labels, values, strict=True):
        valid = judged >= 0
        if (judged > 0).any():
            assert value.item() == pytest.approx(average_precision_score(judged[valid] > 0, row[valid]))
            checked += 1
        else:
            assert value == 0
    assert checked >= 30


@pytest.mark.parametrize("k", [1, 3, 12, 100])
def test_is_the_sum_of_precisions_at_relevant_items_over_all_of_them(sample, k):
    expected = []
    for ranked in sample.ranked:
        hits = [place for place, label in enumerate(ranked[:k], 1) if label > 0]
        precisions = [count / place for count, place in enumerate(hits, 1)]
        expected.append(sum(precisions) / max(1, sum(label > 0 for label in ranked)))
    assert map_at_k(sample.scores, sample.labels, k).tolist() == pytest.approx(expected)


def test_by_hand():
    scores, labels = torch.tensor([[4.0, 3.0, 2.0, 1.0]]), torch.tensor([[2, 0, 1, 1]])
    assert map_at_k(scores, labels, k=3).item() == pytest.approx((1 + 2 / 3) / 3)
