"""Plots of runs, drawn without a display."""

from __future__ import annotations

import textwrap
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pandas as pd

from rank_xmodal.files import replacing

_HEADINGS = {"t2i": "text to image", "i2t": "image to text"}
_COLOURS = {"CLIP": "0.5", "CSLS": "tab:purple"}  # rankers are green
_NARROWEST = 4.0  # points that an axis spans at least
# By how many ranks a query's first relevant item moved, (lowest, name, colour); red and blue, as most eyes tell apart.
_SHIFTS: tuple[tuple[float, str, str], ...] = (
    (-np.inf, "11+ down", "#b2182b"),
    (-10, "3 to 10 down", "#ef8a62"),
    (-2, "1 or 2 down", "#fddbc7"),
    (0, "same rank", "#ededed"),
    (1, "1 or 2 up", "#d1e5f0"),
    (3, "3 to 10 up", "#67a9cf"),
    (11, "11+ up", "#2166ac"),
)


def _plain(label: str) -> str:
    """Return a label in lines that leave room for the plot, its dollar signs no mathematics."""
    return textwrap.fill(label, 36).replace("$", r"\$")


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
    calibration : as `rank_xmodal.evaluation.calibration.reliability` returns it
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

    directions = [d for d in _HEADINGS if any(d in row for row in summary.values())]
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
        axis.set(title=_HEADINGS[direction], xlabel="R@1, %", xlim=(0, 1.14 * max(means)))
    figure.suptitle(_plain(title))
    with replacing(out) as part:
        figure.savefig(part, format="png", dpi=120)


def plot_recall(frames: dict[str, pd.DataFrame], ceilings: dict[str, float], title: str, out: Path) -> None:
    """Draw R@1, R@5 and R@10 of every row, one line of panels a direction, into a PNG file.

    Points and not bars: the axis need not start at 0, and rows that are close can be told apart.

    Parameters
    ----------
    frames : as `compare.frames` returns it; the bars around a point are the standard deviation over seeds
    ceilings : direction -> ceiling in %
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = ("R@1", "R@5", "R@10")
    heights = [1.0 + 0.3 * len(frame) for frame in frames.values()]
    figure = Figure(figsize=(11, 0.7 + sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(frames), 3, squeeze=False, sharey="row", gridspec_kw={"height_ratios": heights})
    for line, (direction, frame) in zip(grid, frames.items(), strict=True):
        places = range(len(frame))
        for axis, name in zip(line, names, strict=True):
            values, errors = frame[name].to_numpy(), frame[f"{name} sd"].fillna(0).to_numpy()
            for place, label, value, error in zip(places, frame["row"], values, errors, strict=True):
                colour = _COLOURS.get(label, "tab:green")
                axis.errorbar(value, place, xerr=error or None, fmt="o", ms=5, capsize=3, color=colour)
                axis.annotate(
                    f"{value:.1f}", (value, place), textcoords="offset points", xytext=(0, 6), ha="center", fontsize=7,
                    bbox={"facecolor": "w", "edgecolor": "none", "pad": 0.5},
                )  # fmt: skip
            axis.axvline(values[0], color="0.5", lw=0.8, ls=":")
            ceiling = ceilings[direction]
            axis.axvline(ceiling, color="k", lw=1, ls="--")
            # Not in a legend, which would cover points.
            axis.set_title(f"{_HEADINGS[direction]}, {name}, %\ndashed: ceiling {ceiling:.1f}", fontsize=9)
            axis.set_yticks(places, [_plain(label) for label in frame["row"]])
            axis.set_ylim(len(frame) - 0.4, -0.8)
            axis.margins(x=0.08)
            # Where everything is near 100, a hundredth of a point must not look like a difference; nor is there any
            # share above 100.
            low, high = axis.get_xlim()
            wider = max(0.0, _NARROWEST - (high - low)) / 2
            beyond = max(0.0, high + wider - 101)
            axis.set_xlim(low - wider - beyond, high + wider - beyond)
            axis.ticklabel_format(axis="x", useOffset=False)
            axis.grid(axis="y", color="0.92")
            axis.set_axisbelow(True)
    figure.suptitle(_plain(title))
    with replacing(out) as part:
        figure.savefig(part, format="png", dpi=120)


def plot_shifts(shifts: dict[str, dict[str, np.ndarray]], title: str, out: Path) -> None:
    """Draw what share of the queries moved by how many ranks from CLIP, one panel a direction, into a PNG file.

    Parameters
    ----------
    shifts : as `compare.rank_shifts` returns it: direction -> row -> ranks gained, one value a query
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    directions = [direction for direction in _HEADINGS if direction in shifts]
    most = max(len(rows) for rows in shifts.values())
    figure = Figure(figsize=(5.6 * len(directions), 1.7 + 0.38 * most), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(directions), squeeze=False)[0]
    edges = [low for low, _, _ in _SHIFTS][1:]
    for axis, direction in zip(panels, directions, strict=True):
        rows = shifts[direction]
        shares = [np.bincount(np.digitize(v, edges), minlength=len(_SHIFTS)) / len(v) * 100 for v in rows.values()]
        left = np.zeros(len(rows))
        for place, (_, name, colour) in enumerate(_SHIFTS):
            width = np.array([share[place] for share in shares])
            bars = axis.barh(range(len(rows)), width, left=left, color=colour, label=name, height=0.75)
            axis.bar_label(bars, [f"{w:.0f}" if w >= 4 else "" for w in width], label_type="center", fontsize=7)
            left += width
        axis.set_yticks(range(len(rows)), [_plain(label) for label in rows])
        axis.invert_yaxis()
        axis.set(title=_HEADINGS[direction], xlabel="share of queries, %", xlim=(0, 100))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(_SHIFTS), fontsize=7, frameon=False)
    figure.suptitle(f"{_plain(title)}: rank of the first relevant item, against CLIP's")
    with replacing(out) as part:
        figure.savefig(part, format="png", dpi=120)
