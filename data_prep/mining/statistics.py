"""What a mining reports: similarities, and how many candidates each filter dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rank_xmodal.data.candidate_lists import CandidateLists

_VALUES = 1_000_000  # at a time: lists may fill half of the memory
_COLUMNS = ("mean", "std", "min", "25 %", "50 %", "75 %", "max")


def similarities(cosine: np.ndarray, labels: np.ndarray) -> dict[str, list[float]]:
    """Summarise the cosines of positives and negatives, and positive (the best of a list) minus negative.

    Parameters
    ----------
    cosine : ndarray (Q, L), float32
    labels : ndarray (Q, L), int8

    Returns
    -------
    dict
        Of "positive", "negative" and "difference": mean, standard deviation, smallest value, quartiles and largest
        value; one that has no values is left out.
    """
    found, step = {}, max(1, _VALUES // max(1, cosine.shape[1]))
    for name, chosen in _CHOSEN.items():
        values, count = np.empty(cosine.size, dtype=np.float32), 0  # what isn't filled takes no memory
        for start in range(0, len(cosine), step):
            part = slice(start, start + step)
            some = chosen(cosine[part], labels[part])
            values[count : count + len(some)] = some
            count += len(some)
        if count:
            found[name] = _summary(values[:count])
    return found


def _difference(cosine: np.ndarray, labels: np.ndarray) -> np.ndarray:
    best = np.where(labels > 0, cosine, -np.inf).max(axis=1, keepdims=True)
    values: np.ndarray = (best - cosine)[(labels == 0) & np.isfinite(best)]
    return values


_CHOSEN: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "positive": lambda cosine, labels: cosine[labels > 0],
    "negative": lambda cosine, labels: cosine[labels == 0],
    "difference": _difference,
}


def _summary(values: np.ndarray) -> list[float]:
    """Return the numbers of `similarities`; `values` (n,) are in another order then."""
    mean = values.mean(dtype=np.float64)
    parts = (values[start : start + _VALUES] for start in range(0, len(values), _VALUES))
    spread = np.sqrt(sum(float(((part.astype(np.float64) - mean) ** 2).sum()) for part in parts) / len(values))
    quartiles = np.percentile(values, [0, 25, 50, 75, 100], overwrite_input=True)
    return [float(x) for x in (mean, spread, *quartiles)]


def format_report(lists: CandidateLists) -> str:
    """Return the table that ends a mining, as plain text."""
    from rich.console import Console  # 0.2 s that a training which mines needn't spend
    from rich.table import Table

    info: dict[str, Any] = lists.info
    table = Table(title=f"{info['direction']} {info['split']}, protocol {info['protocol']}: cosine")
    table.add_column("")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for name, values in info["statistics"]["cosine"].items():
        table.add_row(name, *(f"{value:.4f}" for value in values))
    dropped = Table(title="candidates dropped that ranked above the last one kept")
    dropped.add_column("filter")
    dropped.add_column("dropped", justify="right")
    for name, count in info["statistics"]["dropped"].items():
        dropped.add_row(name, f"{count:,}")
    console = Console(width=100, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(table)
        if dropped.row_count:
            console.print(dropped)
    lines = [captured.get().rstrip("\n")]
    if count := info["statistics"]["queries_without_hit"]:
        lines.append(f"{count:,} queries without a relevant candidate in their list were left out")
    if count := info["statistics"]["relevant_labelled_0"]:
        lines.append(f"{count:,} relevant candidates are labelled 0")
    return "\n".join(lines)
