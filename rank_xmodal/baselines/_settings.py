"""Checks of the settings of a baseline: what they hold would otherwise show as a strange result, or not at all."""

from __future__ import annotations

import math
from numbers import Integral, Real

from rank_xmodal.errors import UserError


def check_counts(baseline: object, *names: str, least: int = 1) -> None:
    """Raise UserError unless each of these attributes is an integer of at least `least`."""
    for name in names:
        value = getattr(baseline, name)
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise UserError(f"{type(baseline).__name__}: {name}={value!r}; pass an integer of at least {least}.")


def check_numbers(baseline: object, *names: str, zero: bool = False) -> None:
    """Raise UserError unless each of these attributes is a finite number above 0, or with `zero` of at least 0."""
    for name in names:
        value = getattr(baseline, name)
        number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value < 0 or (value == 0 and not zero):
            bound = "of at least 0" if zero else "above 0"
            raise UserError(f"{type(baseline).__name__}: {name}={value!r}; pass a finite number {bound}.")
