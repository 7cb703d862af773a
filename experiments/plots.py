"""Plots of a run, drawn without a display."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
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


def plot_reliability(calibration: dict[str, Any], title: str, out: Path) -> None:
    """Draw predicted against true shares of relevant pairs, and how many pairs each point stands for, into a PNG file.

    Parameters
    ----------
    calibration : as `rank_xmodal.calibration.reliability` returns it
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls=":")
    predicted, true, counts = zip(*calibration["curve"], strict=True)
    axis.plot(predicted, true, marker="o", color="tab:green")
    for x, y, count in zip(predicted, true, counts, strict=True):
        axis.annotate(f"{count:,}", (x, y), textcoords="offset points", xytext=(6, -10), fontsize=7, color="0.4")
    axis.set(xlabel="predicted probability", ylabel="share that is relevant", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axis.set_title(
        f"{title}\nECE {calibration['ECE']:.4f}, AP {calibration['AP']:.3f}; beside a point: its pairs", fontsize=9
    )
    figure.savefig(out, dpi=110)


def plot_comparison(summary: dict[str, dict[str, dict[str, list[float]]]], title: str, out: Path) -> None:
    """Draw R@1 of every row, one panel a direction, into a PNG file.

    Parameters
    ----------
    summary : as `compare.summarise` returns it: row -> direction -> metric -> one value per seed
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    headings = {"t2i": "text to image", "i2t": "image to text"}
    directions = [d for d in headings if any(d in row for row in summary.values())]
    figure = Figure(figsize=(4.6 * len(directions), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, direction in zip(figure.subplots(1, len(directions), squeeze=False)[0], directions, strict=True):
        labels = [label for label, row in summary.items() if direction in row]
        values = [[100 * v for v in summary[label][direction]["R@1"]] for label in labels]
        means = [mean(v) for v in values]
        errors = [stdev(v) if len(v) > 1 else 0.0 for v in values]
        colours = [{"CLIP": "0.6", "CSLS": "tab:purple"}.get(label, "tab:green") for label in labels]
        bars = axis.barh(labels, means, xerr=errors if any(errors) else None, color=colours)
        axis.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
        axis.axvline(means[0], color="0.4", lw=0.8, ls=":")
        axis.invert_yaxis()
        axis.set(title=headings[direction], xlabel="R@1, %", xlim=(0, 1.14 * max(means)))
    figure.suptitle(title)
    figure.savefig(out, dpi=120)
