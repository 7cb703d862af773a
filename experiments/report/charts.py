"""The geometry of a page's charts: where values stand, and which get a tick or a label; charts.svg.j2 draws them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scale:
    """A straight line from values to places: `low` stands at `start`, `high` at `end`."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float) -> Scale:
        """Return a scale with some room below and above values."""
        low, high = min(values), max(values)
        room = 0.06 * (high - low) or 0.01 * abs(high) or 1.0
        return cls(low - room, high + room, start, end)

    def __call__(self, value: float) -> float:
        """Return where a value stands."""
        share = (value - self.low) / ((self.high - self.low) or 1)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, about: int = 4) -> list[tuple[float, str]]:
        """Return round numbers between low and high, their labels with the same decimals."""
        raw = (self.high - self.low) / about
        unit = 10 ** math.floor(math.log10(raw))
        step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= raw * 0.999)
        places = range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
        labels = [f"{place * step:.10g}" for place in places]
        values = [float(label) for label in labels]
        if not any("e" in label for label in labels):
            decimals = max(len(label.partition(".")[2]) for label in labels)
            labels = [f"{value:.{decimals}f}" for value in values]
        return list(zip(values, labels, strict=True))


def spread(y: Scale, values: Iterable[float], apart: float = 14) -> list[float]:
    """Return the heights of values' labels, each moved off the one before it where the two would overlap."""
    found: list[float] = []
    for height in map(y, values):
        if found and abs(height - found[-1]) < apart:
            height = found[-1] + math.copysign(apart, height - found[-1])
        found.append(height)
    return found


def series(history: Sequence[Mapping[str, float]], key: str, times: float = 1) -> list[tuple[float, float]]:
    """Return (epoch, value) of the epochs that have a finite value; none if it is but one, which makes no curve."""
    points = [(h["epoch"], times * h[key]) for h in history if key in h and math.isfinite(h[key])]
    return points if len(points) > 1 else []


_STEPS = ((-math.inf, -11, "> 10"), (-10, -4, "4–10"), (-3, -2, "2–3"), (-1, -1, "1"), (0, 0, "same"), (1, 1, "1"),
          (2, 3, "2–3"), (4, 10, "4–10"), (11, math.inf, "> 10"))  # fmt: skip


def shifts(rose: np.ndarray) -> list[tuple[str, str, int]]:
    """Return columns of queries by the places they rose, (Q,): what they did, by how many, how many queries."""
    return [
        ("fell" if high < 0 else "rose" if low > 0 else "stayed", label, int(((rose >= low) & (rose <= high)).sum()))
        for low, high, label in _STEPS
    ]


def hue(place: int) -> float:
    """Return a hue in degrees for the row at this place: no two alike, however many, and none green like the run's."""
    return round((200 + 240 * ((0.778 + 0.618034 * place) % 1)) % 360, 1)
