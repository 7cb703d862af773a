import pytest
import torch
from sklearn.metrics import confusion_matrix, precision_recall_curve, precision_recall_fscore_support

from rank_xmodal.metrics import at_threshold, best_f1


@pytest.mark.parametrize("threshold", [-1.0, 3.0, 5.5, 11.0, 12.0])
def test_equals_scikit_learn(sample, threshold):
    valid = sample.labels >= 0
    real, called = sample.labels[valid] > 0, sample.scores[valid] >= threshold
    decided = at_threshold(sample.scores, sample.labels, threshold)
    reference = precision_recall_fscore_support(real, called, average="binary", zero_division=0)[:3]
    assert (decided.precision, decided.recall, decided.f1) == pytest.approx(reference)
    assert [list(row) for row in decided.confusion] == confusion_matrix(real, called).tolist()


def test_the_best_threshold_is_that_of_the_whole_curve(sample):
    valid = sample.labels >= 0
    precision, recall, thresholds = precision_recall_curve(sample.labels[valid] > 0, sample.scores[valid])
    f1 = 2 * precision * recall / (precision + recall).clip(1e-12)
    decided = best_f1(sample.scores, sample.labels)
    assert decided.f1 == pytest.approx(f1.max())
    assert decided.threshold in thresholds
    assert decided == at_threshold(sample.scores, sample.labels, decided.threshold)


def test_by_hand():
    scores, labels = torch.tensor([[0.9, 0.4, 0.1], [0.8, 0.7, 0.0]]), torch.tensor([[1, 0, -1], [0, 2, 1]])
    decided = at_threshold(scores, labels, 0.5)
    assert decided.confusion == ((1, 1), (1, 2))
    assert (decided.precision, decided.recall, decided.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3))


def test_a_score_of_float32_reaches_its_own_threshold():
    scores, labels = torch.tensor([[0.1, 0.3, 0.7]]), torch.tensor([[0, 0, 1]])
    decided = best_f1(scores, labels)
    assert decided.f1 == 1.0
    assert decided.confusion == ((2, 0), (0, 1))


def test_equal_scores_are_decided_alike_and_the_highest_of_the_best_thresholds_is_named():
    assert best_f1(torch.ones(1, 4), torch.tensor([[1, 0, 0, 0]])).confusion == ((0, 3), (0, 1))
    # F1 is 2/3 from 4 (one of one called) and from 1 (two of four).
    assert best_f1(torch.tensor([[4.0, 3.0, 2.0, 1.0]]), torch.tensor([[1, 0, 0, 1]])).threshold == 4.0


def test_matches_outside_the_lists_are_missed():
    scores, labels = torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([[1, 0], [0, 0]])
    decided = at_threshold(scores, labels, 1.5, n_relevant=torch.tensor([3, 1]))
    assert decided.confusion == ((2, 1), (3, 1))
    assert decided.recall == 0.25
    assert best_f1(scores, labels, torch.tensor([3, 1])).f1 == pytest.approx(2 / 6)


def test_nothing_called_and_nothing_to_find():
    decided = at_threshold(torch.zeros(1, 2), torch.zeros(1, 2), 1.0)
    assert (decided.precision, decided.recall, decided.f1) == (0, 0, 0)
    assert decided.confusion == ((2, 0), (0, 0))


def test_bad_input():
    with pytest.raises(ValueError, match="threshold is NaN"):
        at_threshold(torch.zeros(1, 2), torch.zeros(1, 2), float("nan"))
    for threshold in (None, "0.5", [0.5]):
        with pytest.raises(ValueError, match=r"^threshold is .*: pass a number"):
            at_threshold(torch.zeros(1, 2), torch.zeros(1, 2), threshold)
    with pytest.raises(ValueError, match="labels holds NaN or infinity"):
        best_f1(torch.zeros(1, 2), torch.tensor([[torch.nan, 1.0]]))
    with pytest.raises(ValueError, match="labels are all -1"):
        best_f1(torch.zeros(1, 2), -torch.ones(1, 2))
    with pytest.raises(ValueError, match="scores has NaN in 1 places"):
        best_f1(torch.tensor([[torch.nan, 0.0]]), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="n_relevant is 0 for query 0, whose list holds 1"):
        at_threshold(torch.zeros(1, 2), torch.tensor([[1, 0]]), 0.0, torch.tensor([0]))
