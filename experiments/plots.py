"""Plots of a run, drawn without a display."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def plot_run(history: list[dict[str, float]], report: dict[str, Any], title: str, out: Path) -> None:
    """Draw loss and validation by epoch, and the test rows CLIP, CSLS and ranker, into a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    trained = [h for h in history if "loss" in h]
    left.plot([h["epoch"] for h in trained], [h["loss"] for h in trained], marker=".", color="tab:blue")
    left.set(title="training loss", xlabel="epoch")
    for name, colour in (("R@1", "tab:green"), ("MRR", "tab:orange")):
        seen = [h for h in history if f"val_{name}" in h]
        if seen:
            values = [100 * h[f"val_{name}"] for h in seen]
            middle.plot([h["epoch"] for h in seen], values, marker=".", color=colour, label=name)
    middle.set(title="validation, % (epoch 0 is CLIP)", xlabel="epoch")
    if middle.lines:
        middle.legend()
    if report:
        names = ("R@1", "R@5", "R@10")
        rows = (("clip", "CLIP", "0.6"), ("csls", "CSLS", "tab:purple"), ("ranker", "ranker", "tab:green"))
        for place, (row, label, colour) in enumerate(rows):
            bars = right.bar(
                [i + 0.27 * (place - 1) for i in range(3)],
                [100 * report[row][n] for n in names],
                width=0.26,
                label=label,
                color=colour,
            )
            right.bar_label(bars, fmt="%.1f", fontsize=6)
        right.axhline(100 * report["ceiling"], color="k", lw=0.8, ls=":", label="ceiling")
        right.set_xticks(range(3), names)
        right.set(title="test, %", ylim=(0, 112))
        right.legend(fontsize=7, loc="upper left", ncols=4)
    figure.suptitle(title)
    figure.savefig(out, dpi=110)
