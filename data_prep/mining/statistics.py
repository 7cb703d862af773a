"""What a mining reports: similarities, and how many candidates each filter dropped."""

from __future__ import annotations

from typing import Any

import numpy as np

from rank_xmodal.data.candidate_lists import CandidateLists

_COLUMNS = ("mean", "std", "min", "25 %", "50 %", "75 %", "max")


def _summary(values: np.ndarray) -> list[float]:
    quartiles = np.percentile(values, [0, 25, 50, 75, 100])
    return [float(x) for x in (values.mean(), values.std(), *quartiles)]


def similarities(cosine: np.ndarray, labels: np.ndarray) -> dict[str, list[float]]:
    """Summarise the cosines of positives and negatives, and positive (the best of a list) minus negative."""
    positive, negative = labels > 0, labels == 0
    best = np.where(positive, cosine, -np.inf).max(axis=1, keepdims=True)
    both = negative & np.isfinite(best)
    rows = {"positive": cosine[positive], "negative": cosine[negative], "difference": (best - cosine)[both]}
    return {name: _summary(values.astype(np.float64)) for name, values in rows.items() if values.size}


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
