"""Scores as probabilities of relevance, comparable across queries: for whoever decides by a threshold."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from rank_xmodal.errors import UserError

_SMALLEST = 20  # relevant and other pairs; a logistic regression on fewer is a guess


@dataclass(frozen=True)
class Calibration:
    """A logistic regression on two figures of a candidate in its list (Platt scaling, 1999, within lists).

    The first is the log odds of the softmax over the list's scores, which falls when rivals come near; the second the
    score less the list's mean, which doesn't when several candidates are relevant. Neither weight is negative, so the
    order within a list stays.

    Attributes
    ----------
    log_odds, centred, bias : float
    """

    log_odds: float
    centred: float
    bias: float

    def probability(self, scores: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the probability that a candidate is relevant, (B, L) -> (B, L) float64; 0 at padding.

        Parameters
        ----------
        scores : Tensor (B, L)
            A ranker's.
        mask : Tensor (B, L), bool
            False at padding; all True by default.
        """
        mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
        log_odds, centred = _figures(scores, mask)
        return torch.where(mask, torch.sigmoid(self.log_odds * log_odds + self.centred * centred + self.bias), 0.0)

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Calibration | None:
        """Return the calibration that a run's config.json tells, None where the run has none."""
        return cls(**facts["calibration"]) if facts.get("calibration") else None

    def as_dict(self) -> dict[str, float]:
        """Return the three numbers by name."""
        return asdict(self)


def _figures(scores: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    kept = scores.double().masked_fill(~mask, -torch.inf)
    # A list of padding alone has no softmax; nobody reads its figures.
    kept = torch.where(mask.any(-1, keepdim=True), kept, 0.0)
    log_p = (kept - kept.logsumexp(-1, keepdim=True)).clamp(min=-700, max=-1e-12)
    log_odds = log_p - torch.log(-torch.expm1(log_p))
    count = mask.sum(-1, keepdim=True).clamp(min=1)
    centre = torch.where(mask, scores.double(), 0.0).sum(-1, keepdim=True) / count
    return log_odds, torch.where(mask, scores.double() - centre, 0.0)


def check(labels: torch.Tensor) -> None:
    """Check that lists with these labels, (B, L), are enough to fit a calibration on.

    Raises
    ------
    UserError
        If there are fewer than 20 relevant or 20 other pairs.
    """
    counts = int((labels > 0).sum()), int((labels == 0).sum())
    if min(counts) < _SMALLEST:
        raise UserError(
            f"calibrate: the validation lists hold {counts[0]} relevant and {counts[1]} other candidates, and at least "
            f"{_SMALLEST} of each are needed. Give the val split more items, or leave calibrate=false."
        )


def fit(scores: torch.Tensor, labels: torch.Tensor) -> Calibration:
    """Fit a calibration on lists that the ranker was not trained on.

    Parameters
    ----------
    scores : Tensor (B, L)
    labels : Tensor (B, L)
        Above 0 is relevant, -1 is padding.

    Raises
    ------
    UserError
        As `check`.
    """
    from sklearn.linear_model import LogisticRegression

    check(labels)
    mask = labels >= 0
    figures = torch.stack([f[mask] for f in _figures(scores, mask)], dim=1).numpy()
    relevant = (labels[mask] > 0).numpy()
    unit = figures.std(axis=0) + 1e-12
    use = [0, 1]
    while True:
        model = LogisticRegression(max_iter=1000).fit(figures[:, use] / unit[use], relevant)
        weights = dict(zip(use, model.coef_[0] / unit[use], strict=True))
        if len(use) == 1 or min(weights.values()) >= 0:
            break
        use = [place for place in use if weights[place] >= 0] or [0]
    return Calibration(
        max(float(weights.get(0, 0.0)), 0.0), max(float(weights.get(1, 0.0)), 0.0), float(model.intercept_[0])
    )


def reliability(probability: np.ndarray, relevant: np.ndarray, bins: int = 10) -> dict[str, Any]:
    """Compare predicted probabilities with what came true.

    Parameters
    ----------
    probability : ndarray (n,), in [0, 1]
    relevant : ndarray (n,), bool
    bins : int
        Of equal width.

    Returns
    -------
    dict
        ECE (expected calibration error: mean distance of the two, weighted by a bin's pairs; Naeini et al. 2015),
        Brier (mean squared error), AP (average precision over all pairs at once: how well a threshold can decide), and
        curve: for each non-empty bin the mean probability, the share of relevant pairs and their count.
    """
    from sklearn.metrics import brier_score_loss

    place = np.clip((probability * bins).astype(int), 0, bins - 1)
    curve = [
        (float(probability[place == b].mean()), float(relevant[place == b].mean()), int((place == b).sum()))
        for b in range(bins)
        if (place == b).any()
    ]
    return {
        "ECE": sum(abs(p - share) * count for p, share, count in curve) / len(probability),
        "Brier": float(brier_score_loss(relevant, probability)),
        "AP": average_precision(probability, relevant),
        "curve": curve,
    }


def average_precision(scores: np.ndarray, relevant: np.ndarray) -> float:
    """Return the average precision of the pairs (n,) of all queries in one ranking; chance is the share relevant."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(relevant, scores))
