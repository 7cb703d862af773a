"""Which of the writes of a run to spoil, where there are too many to spoil each."""

import random
from collections.abc import Callable

Wanted = Callable[[str], bool]
"""Says whether cases of a scenario are asked for: the others need no preparation."""


def chosen(steps: list[str], most: int | None, luck: random.Random) -> list[int]:
    """Return numbers from 1: all where `most` is None, else first and last of every row of equal steps, then others."""
    every = list(range(1, len(steps) + 1))
    if most is None or most >= len(every):
        return every
    edges = [n for n in every if n in (1, len(steps)) or steps[n - 1] != steps[n - 2] or steps[n - 1] != steps[n]]
    others = [n for n in every if n not in set(edges)]
    luck.shuffle(edges)
    luck.shuffle(others)
    outside = [n for n in edges if "/mlruns/" not in steps[n - 1]]  # ours first, SQLite's own care afterwards
    inside = [n for n in edges if "/mlruns/" in steps[n - 1]]
    half = max(most // 2, most - len(inside))
    first = outside[:half]
    return sorted([*first, *inside, *outside[half:], *others][:most])
