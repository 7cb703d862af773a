"""Probabilities of relevance: against their definition, on planted probabilities, and in a trained ranker."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.calibration import Calibration, average_precision, fit, reliability


def drawn(lists=4_000, length=12, sharpness=1.0, seed=0):
    """Return scores, and labels drawn from the softmax of `sharpness` times the scores: one relevant in a list."""
    draw = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(lists, length, generator=draw)
    chosen = torch.multinomial((sharpness * scores).softmax(-1), 1, generator=draw)
    return scores, torch.zeros(lists, length, dtype=torch.int8).scatter_(1, chosen, 1)


def test_a_probability_is_the_logistic_of_the_lists_log_odds_and_the_centred_score():
    scores = torch.tensor([[2.0, 0.0, -1.0]])
    found = Calibration(0.7, 0.2, -0.3).probability(scores)
    p = np.exp([2.0, 0.0, -1.0]) / np.exp([2.0, 0.0, -1.0]).sum()
    logit = 0.7 * np.log(p / (1 - p)) + 0.2 * (np.array([2.0, 0.0, -1.0]) - 1 / 3) - 0.3
    assert_close(found[0], torch.from_numpy(1 / (1 + np.exp(-logit))))


def test_drawn_labels_are_predicted_as_they_were_drawn():
    fitted = fit(*drawn())
    scores, labels = drawn(seed=1)
    found = reliability(fitted.probability(scores).flatten().numpy(), (labels > 0).flatten().numpy())
    assert found["ECE"] < 0.01
    assert_close(fitted.probability(scores), scores.double().softmax(-1), atol=0.06, rtol=0)


def test_overconfident_scores_are_brought_down():
    scores, labels = drawn(sharpness=0.3)
    fitted = fit(scores, labels)
    raw = reliability(scores.double().softmax(-1).flatten().numpy(), (labels > 0).flatten().numpy())
    mended = reliability(fitted.probability(scores).flatten().numpy(), (labels > 0).flatten().numpy())
    assert mended["ECE"] < 0.2 * raw["ECE"]
    assert mended["Brier"] < raw["Brier"]


@pytest.mark.parametrize("sharpness", [1.0, 0.0, -0.5])
def test_the_order_within_a_list_stays(sharpness):
    scores, labels = drawn(lists=300, sharpness=sharpness)
    fitted = fit(scores, labels)
    assert fitted.log_odds >= 0
    assert fitted.centred >= 0
    ordered = fitted.probability(scores).gather(1, scores.argsort(dim=1))
    assert bool((ordered.diff(dim=1) >= -1e-12).all())


def test_padding_counts_for_nothing():
    scores, labels = drawn(lists=200)
    wide = torch.cat([scores, torch.full((200, 3), 99.0)], dim=1)
    wide_labels = torch.cat([labels, torch.full((200, 3), -1, dtype=torch.int8)], dim=1)
    assert fit(wide, wide_labels) == fit(scores, labels)
    fitted, mask = fit(scores, labels), wide_labels >= 0
    assert_close(fitted.probability(wide, mask)[:, :12], fitted.probability(scores))
    assert not fitted.probability(wide, mask)[:, 12:].any()
    assert bool(torch.isfinite(fitted.probability(wide, torch.zeros_like(mask))).all())


def test_far_apart_scores_give_finite_probabilities():
    found = Calibration(1.0, 0.0, 0.0).probability(torch.tensor([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]]))
    assert bool(torch.isfinite(found).all())
    assert found[0, 0] > 0.999
    assert found[0, 2] < 1e-6
    assert_close(found[1], torch.full((3,), 1 / 3, dtype=torch.float64))


def test_reliability_equals_a_count_by_hand():
    probability = np.array([0.05, 0.05, 0.95, 0.95])
    found = reliability(probability, np.array([False, True, True, True]))
    assert found["curve"] == [(0.05, 0.5, 2), (0.95, 1.0, 2)]
    assert found["ECE"] == pytest.approx(0.5 * 0.45 + 0.5 * 0.05)
    assert found["Brier"] == pytest.approx((0.05**2 + 0.95**2 + 2 * 0.05**2) / 4)
    assert reliability(np.array([0.0, 1.0]), np.array([False, True]))["ECE"] == 0
    assert average_precision(np.array([3.0, 2.0, 1.0]), np.array([True, False, True])) == pytest.approx((1 + 2 / 3) / 2)


def test_too_little_to_calibrate_on_is_said():
    scores, labels = drawn(lists=10)
    with pytest.raises(UserError, match=r"10 relevant and 110 other .* at least 20"):
        fit(scores, labels)
