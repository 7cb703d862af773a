"""Conditions on the columns of a LanceDB table, as SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def one_of(column: str, values: Sequence[Any]) -> str:
    """Return the condition that a column holds one of some values, None for a missing one, as SQL."""
    told, others = [], []
    for value in values:
        if value is None:
            others.append(f"`{column}` IS NULL")
        elif isinstance(value, bool):
            told.append("true" if value else "false")
        elif isinstance(value, int):
            told.append(str(value))
        elif isinstance(value, float) and np.isnan(value):
            others.append(f"isnan(`{column}`)")
        elif isinstance(value, float):
            told.append(repr(value) if np.isfinite(value) else f"CAST('{value}' AS DOUBLE)")
        elif isinstance(value, str):
            told.append("'" + value.replace("'", "''") + "'")
        else:
            raise ValueError(f"where {column!r}: {value!r} is no number or string.")
    return " OR ".join([*([f"`{column}` IN ({', '.join(told)})"] if told else []), *others])
