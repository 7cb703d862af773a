"""What a fit tells while it goes on, and where it keeps what it has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Watch:
    """Who watches a fit.

    Attributes
    ----------
    on_epoch : called after each epoch, and for the untrained start (epoch 0), with its figures
        epoch, loss, lr, seconds and, where there is a validation, val_R@1 and its kin.
    on_step : called after each step with epoch, step and steps in an epoch
    checkpoint : Path or None
        A file that holds the state after each epoch. A training that was interrupted continues from it, and ends as it
        would have without the interruption; one that was finished is read from it. Whoever names it removes it.
    last_epoch : int or None
        Stop after this epoch, on the way that the settings' schedule takes to its own last one.
    """

    on_epoch: Callable[[dict[str, float]], None] = lambda figures: None
    on_step: Callable[[int, int, int], None] = lambda epoch, step, steps: None
    checkpoint: Path | None = None
    last_epoch: int | None = None
