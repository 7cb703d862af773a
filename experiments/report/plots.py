"""Plots of runs, drawn without a display."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.results.names import HEADINGS
from experiments.results.result import row_label, rows_in
from experiments.results.text import visible
from rank_xmodal.data.embedding_set import Direction
from rank_xmodal.evaluation.judging import RANKER
from rank_xmodal.files import replacing
from rank_xmodal.scorers.chance import Chance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

Figures = Mapping[str, Mapping[str, Mapping[str, tuple[float, float]]]]
"""Direction -> row -> metric -> mean and standard deviation in %, NaN of a single value."""
# A run is green, what it is held against grey.
_COLOURS = {"CLIP": "0.5", Chance.label: "0.5", "CSLS": "tab:purple", "CSLS on VSE++": "tab:cyan"}
_TRAINED = "tab:green"
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


def _plain(label: str, width: int = 36) -> str:
    """Return a label in lines that leave room for the plot, its dollar signs no mathematics."""
    return textwrap.fill(visible(label, keep=""), width).replace("$", r"\$")


@contextmanager
def _drawn(out: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield a figure in inches and write it as a PNG file, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    with replacing(out) as part:
        figure.savefig(part, format="png", dpi=120)


def plot_run(history: list[dict[str, float]], report: dict[str, Any], title: str, out: Path) -> None:
    """Draw loss and validation by epoch, and the rows of the test report."""
    with _drawn(out, 11, 3.6) as figure:
        left, middle, right = figure.subplots(1, 3)
        trained = [h for h in history if "loss" in h]
        left.plot([h["epoch"] for h in trained], [h["loss"] for h in trained], marker=".", color="tab:blue")
        left.set(title="training loss", xlabel="epoch")
        for key, colour, name in (
            ("val_R@1", "tab:green", "R@1"),
            ("val_MRR", "tab:orange", "MRR"),
            ("val_MAP", "tab:purple", "class MAP of both directions"),
        ):
            seen = [h for h in history if key in h]
            if seen:
                values = [100 * h[key] for h in seen]
                middle.plot([h["epoch"] for h in seen], values, marker=".", color=colour, label=name)
        middle.set(title="validation, % (epoch 0 is the start)", xlabel="epoch")
        if middle.lines:
            middle.legend()
        if report:
            _bars(right, report)
        figure.suptitle(_plain(title))


def _bars(axis: Any, report: dict[str, Any]) -> None:
    names, rows = ("R@1", "R@5", "R@10"), rows_in(report)
    width = 0.81 / len(rows)
    for place, row in enumerate(rows):
        label = row_label(row)
        colour = _TRAINED if row == RANKER else _COLOURS.get(label)
        left = [i + width * (place - (len(rows) - 1) / 2) for i in range(len(names))]
        bars = axis.bar(left, [100 * report[row][n] for n in names], width=width - 0.01, label=label, color=colour)
        # Upright: the three of 100.0 would run into each other, and there may be more.
        paper = {"facecolor": "w", "edgecolor": "none", "pad": 0.5}  # the ceiling's line would cross the figures
        axis.bar_label(bars, fmt="%.1f", fontsize=7, rotation=90, padding=3, bbox=paper)
    axis.axhline(100 * report["ceiling"], color="k", lw=0.8, ls=":", label="ceiling")
    axis.set_xticks(range(len(names)), names)
    axis.set(title=f"{report.get('split', 'test')}, %", ylim=(0, 120), yticks=range(0, 101, 20))
    axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.09), ncols=4, frameon=False)


def plot_reliability(calibration: dict[str, Any], title: str, out: Path) -> None:
    """Draw predicted against true shares of relevant pairs, as `calibration.reliability` gives them."""
    with _drawn(out, 4.6, 4.6) as figure:
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls=":")
        predicted, true, counts = zip(*calibration["curve"], strict=True)
        axis.plot(predicted, true, marker="o", color="tab:green")
        for x, y, count in zip(predicted, true, counts, strict=True):
            axis.annotate(f"{count:,}", (x, y), textcoords="offset points", xytext=(6, -10), fontsize=7, color="0.4")
        axis.set(xlabel="predicted probability", ylabel="share that is relevant", xlim=(0, 1), ylim=(0, 1))
        axis.set_aspect("equal")
        said = f"ECE {calibration['ECE']:.4f}, AP {calibration['AP']:.3f}; beside a point: its pairs"
        axis.set_title(f"{_plain(title, 60)}\n{said}", fontsize=9)


def plot_comparison(figures: Figures, title: str, out: Path) -> None:
    """Draw R@1 of every row, one panel a direction."""
    with _drawn(out, 4.6 * len(figures), 3.2) as figure:
        for axis, (direction, rows) in zip(
            figure.subplots(1, len(figures), squeeze=False)[0], figures.items(), strict=True
        ):
            means, errors = np.array([row["R@1"] for row in rows.values()]).T
            colours = [_COLOURS.get(label, _TRAINED) for label in rows]
            shown = None if np.isnan(errors).all() else np.nan_to_num(errors)
            bars = axis.barh([_plain(label) for label in rows], means, xerr=shown, color=colours)
            axis.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
            axis.axvline(means[0], color="0.4", lw=0.8, ls=":")
            axis.invert_yaxis()
            axis.set(title=HEADINGS[direction], xlabel="R@1, %", xlim=(0, 1.14 * max(means)))
        figure.suptitle(_plain(title))


def plot_recall(figures: Figures, ceilings: Mapping[str, float], title: str, out: Path) -> None:
    """Draw R@1, R@5 and R@10 of every row, one line of panels a direction.

    Points and not bars: the axis need not start at 0, and rows that are close can be told apart. Around them the
    standard deviation; `ceilings` are in %, by direction.
    """
    names = ("R@1", "R@5", "R@10")
    heights = [1.0 + 0.3 * len(rows) for rows in figures.values()]
    with _drawn(out, 11, 0.7 + sum(heights)) as figure:
        grid = figure.subplots(len(figures), 3, squeeze=False, sharey="row", gridspec_kw={"height_ratios": heights})
        for line, (direction, rows) in zip(grid, figures.items(), strict=True):
            for axis, name in zip(line, names, strict=True):
                _points(axis, {label: row[name] for label, row in rows.items()}, ceilings[direction])
                # The ceiling is not in a legend, which would cover points.
                heading = f"{HEADINGS[direction]}, {name}, %\ndashed: ceiling {ceilings[direction]:.1f}"
                axis.set_title(heading, fontsize=9)
        figure.suptitle(_plain(title))


def _points(axis: Any, rows: Mapping[str, tuple[float, float]], ceiling: float) -> None:
    for place, (label, (value, error)) in enumerate(rows.items()):
        shown = None if np.isnan(error) else error
        colour = _COLOURS.get(label, _TRAINED)
        point = axis.errorbar(value, place, xerr=shown, fmt="o", ms=5, capsize=3, color=colour).lines[0]
        point.set_clip_on(False)  # one at 100 stands on the axis' end
        axis.annotate(
            f"{value:.1f}", (value, place), textcoords="offset points", xytext=(0, 6), ha="center", fontsize=7,
            bbox={"facecolor": "w", "edgecolor": "none", "pad": 0.5},
        )  # fmt: skip
    axis.axvline(next(iter(rows.values()))[0], color="0.5", lw=0.8, ls=":")
    axis.axvline(ceiling, color="k", lw=1, ls="--")
    axis.set_yticks(range(len(rows)), [_plain(label) for label in rows])
    axis.set_ylim(len(rows) - 0.4, -0.8)
    axis.margins(x=0.08)
    # Near 100 a hundredth of a point must not look like a difference; nor is there any share above 100.
    low, high = axis.get_xlim()
    wider = max(0.0, _NARROWEST - (high - low)) / 2
    beyond = max(0.0, high + wider - 100)
    axis.set_xlim(low - wider - beyond, high + wider - beyond)
    axis.ticklabel_format(axis="x", useOffset=False)
    axis.grid(axis="y", color="0.92")
    axis.set_axisbelow(True)


def plot_cost(
    points: Mapping[Direction, Mapping[str, tuple[float, float]]], title: str, out: Path, metric: str = "R@1"
) -> None:
    """Draw a metric against milliseconds a query, one panel a direction; a line joins what nothing beats in both."""
    with _drawn(out, 5.2 * len(points), 4.2) as figure:
        figure.suptitle(_plain(title, 80))
        axes = figure.subplots(1, len(points), squeeze=False)[0]
        for axis, (direction, rows) in zip(axes, points.items(), strict=True):
            front, best = [], -np.inf
            for label, (cost, value) in sorted(rows.items(), key=lambda item: (item[1][0], -item[1][1])):
                axis.plot(cost, value, "o", ms=5, color=_COLOURS.get(label, _TRAINED))
                if value > best:
                    best = value
                    front.append((cost, value))
            axis.plot(*zip(*front, strict=True), color="0.6", lw=0.8, drawstyle="steps-post")
            axis.set_xscale("log")
            axis.margins(x=0.25, y=0.1)
            axis.set(title=HEADINGS[direction], xlabel="milliseconds a query", ylabel=f"{metric}, %")
        figure.draw_without_rendering()  # names find their places when all else has its own
        for axis, rows in zip(axes, points.values(), strict=True):
            taken: list[Bbox] = []
            for label, point in rows.items():
                taken.append(_named(axis, _plain(label, 24), point, taken))


def _named(axis: Axes, label: str, point: tuple[float, float], taken: Sequence[Bbox]) -> Bbox:
    """Write a name beside its point where it covers no other, if there is such a place, and return where it stands."""
    text: Any = axis.annotate(label, point, textcoords="offset points", xytext=(0, 0), fontsize=7)
    inside = axis.get_window_extent()
    for across, up in ((5, 3), (5, -8), (-5, 3), (-5, -8), (5, 12), (-5, 12)):
        text.set_position((across, up))
        text.set_horizontalalignment("left" if across > 0 else "right")
        box = text.get_window_extent()
        if not any(box.overlaps(other) for other in taken) and inside.x0 < box.x0 and box.x1 < inside.x1:
            break
    return box


def plot_shifts(
    shifts: Mapping[str, Mapping[str, np.ndarray]], title: str, out: Path, *, against: str = "CLIP"
) -> None:
    """Draw what share of the queries moved by how many ranks from the reference, one panel a direction.

    Parameters
    ----------
    shifts : direction -> row -> ranks gained, one value a query
    title : str
    out : Path
    against : str
        What the row is called from whose ranks they moved.
    """
    edges = [low for low, _, _ in _SHIFTS][1:]
    with _drawn(out, 5.6 * len(shifts), 1.7 + 0.38 * max(len(rows) for rows in shifts.values())) as figure:
        panels = figure.subplots(1, len(shifts), squeeze=False)[0]
        for axis, (direction, rows) in zip(panels, shifts.items(), strict=True):
            shares = [np.bincount(np.digitize(v, edges), minlength=len(_SHIFTS)) / len(v) * 100 for v in rows.values()]
            left = np.zeros(len(rows))
            for place, (_, name, colour) in enumerate(_SHIFTS):
                width = np.array([share[place] for share in shares])
                bars = axis.barh(range(len(rows)), width, left=left, color=colour, label=name, height=0.75)
                axis.bar_label(bars, [f"{w:.0f}" if w >= 4 else "" for w in width], label_type="center", fontsize=7)
                left += width
            axis.set_yticks(range(len(rows)), [_plain(label) for label in rows])
            axis.invert_yaxis()
            axis.set(title=HEADINGS[direction], xlabel="share of queries, %", xlim=(0, 100))
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(_SHIFTS), fontsize=7, frameon=False)
        figure.suptitle(f"{_plain(title)}: rank of the first relevant item, against that of {_plain(against)}")
