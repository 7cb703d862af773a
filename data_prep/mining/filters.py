"""Which candidates are no negatives, though they are not relevant."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from rank_xmodal.errors import UserError


@dataclass(frozen=True)
class Filters:
    """Which candidates are too easy, too hard or too risky to be negatives; protocol clean only.

    Attributes
    ----------
    range_min : int
        Skip this many of the most similar candidates that the other filters leave.
    absolute_margin : float or None
        Keep candidates whose cosine is at most the positive's less this.
    relative_margin : float or None
        The same with this share of the positive's absolute value: right for negative cosines too.
    max_score : float or None
        Keep candidates whose cosine is at most this.
    """

    range_min: int = 0
    absolute_margin: float | None = None
    relative_margin: float | None = None
    max_score: float | None = None

    def check(self, protocol: str) -> None:
        """Refuse values that can't be meant, and any value under another protocol than clean."""
        for name, value in asdict(self).items():
            option = f"--{name.replace('_', '-')}"
            if value in (None, 0) and not isinstance(value, float):
                continue
            if protocol != "clean":
                raise UserError(f"{option} {value}: works with --protocol clean only, not {protocol}. Leave it out.")
            if not np.isfinite(value) or (name != "max_score" and value < 0):
                raise UserError(f"{option} {value}: must be a finite number, 0 or more.")

    def limits(self, positive: np.ndarray) -> dict[str, np.ndarray]:
        """Return the highest allowed cosine by filter, from the positive's cosine (Q,)."""
        limits = {}
        if self.max_score is not None:
            limits["max_score"] = np.full_like(positive, self.max_score)
        if self.absolute_margin is not None:
            limits["absolute_margin"] = positive - np.float32(self.absolute_margin)
        if self.relative_margin is not None:
            limits["relative_margin"] = positive - np.abs(positive) * np.float32(self.relative_margin)
        return limits
