"""Plots of whatever names there are."""

import warnings
from contextlib import contextmanager

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from PIL import Image

from experiments.report import plots

ODD = ["a$b$c", "$\\frac", "\\$x$ {", "a\x1b[31m\x07\u202e\nb", "$" * 100]
FIGURES = dict.fromkeys(("R@1", "R@5", "R@10"), (50.0, 1.0))
ROW = {"R@1": 0.5, "R@5": 0.6, "R@10": 0.7}


@pytest.mark.parametrize("odd", ODD)
def test_no_name_is_mathematics_or_a_control_character(tmp_path, odd):
    out = tmp_path / "plot.png"
    drawn = {
        "run": lambda: plots.plot_run([], {"ceiling": 1.0, "clip": ROW, "csls": ROW, "ranker": ROW}, odd, out),
        "reliability": lambda: plots.plot_reliability({"curve": [(0.1, 0.2, 3)], "ECE": 0.1, "AP": 0.5}, odd, out),
        "comparison": lambda: plots.plot_comparison({"t2i": {"CLIP": FIGURES, odd: FIGURES}}, odd, out),
        "recall": lambda: plots.plot_recall({"t2i": {"CLIP": FIGURES, odd: FIGURES}}, {"t2i": 90.0}, odd, out),
        "shifts": lambda: plots.plot_shifts({"t2i": {odd: np.array([0, 1, -3])}}, odd, out, against="random order"),
    }
    for name, draw in drawn.items():
        out.unlink(missing_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of a sign that the font doesn't have
            draw()
        assert Image.open(out).size[0] > 300, name


@pytest.fixture
def figures(monkeypatch):
    """Return the figures that are drawn, as they come."""
    found = []
    real = plots._drawn

    @contextmanager
    def kept(out, width, height):
        with real(out, width, height) as figure:
            found.append(figure)
            yield figure

    monkeypatch.setattr(plots, "_drawn", kept)
    return found


@pytest.mark.parametrize(("first", "label"), [("clip", "CLIP"), ("chance", "random order")])
def test_what_a_run_is_held_against_is_grey_whatever_it_is(tmp_path, figures, first, label):
    report = {"ceiling": 1.0, "rows": [first, "ranker"], first: ROW, "ranker": ROW}
    plots.plot_run([], report, "run", tmp_path / "run.png")
    plots.plot_comparison({"t2i": {label: FIGURES, "CCA": FIGURES}}, "all", tmp_path / "all.png")
    plots.plot_recall({"t2i": {label: FIGURES, "CCA": FIGURES}}, {"t2i": 90.0}, "recall", tmp_path / "recall.png")
    run, compared, recall = figures
    assert [bars.get_label() for bars in run.axes[2].containers] == [label, "ranker"]
    bars = [[bars[0].get_facecolor() for bars in run.axes[2].containers],
            [bar.get_facecolor() for bar in compared.axes[0].patches],
            [to_rgba(bars.lines[0].get_color()) for bars in recall.axes[0].containers]]  # fmt: skip
    assert bars == [[to_rgba("0.5"), to_rgba("tab:green")]] * 3


def test_shifts_name_the_row_that_they_are_counted_from(tmp_path, figures):
    rose = {"t2i": {"CCA": np.array([0, 1, -3])}}
    plots.plot_shifts(rose, "t", tmp_path / "a.png")
    plots.plot_shifts(rose, "t", tmp_path / "b.png", against="random order")
    said = [figure.get_suptitle() for figure in figures]
    assert said == [f"t: rank of the first relevant item, against that of {row}" for row in ("CLIP", "random order")]


def test_what_the_best_epoch_was_chosen_by_is_drawn(tmp_path, figures):
    history = [{"epoch": k, "loss": 1.0, "val_MAP": 0.5 + k / 10} for k in range(3)]
    plots.plot_run(history, {}, "run", tmp_path / "run.png")
    (line,) = figures[0].axes[1].lines
    assert line.get_label() == "class MAP of both directions"
    assert line.get_ydata() == pytest.approx([50, 60, 70])


def test_no_figure_runs_into_another_however_many_are_at_100(tmp_path, figures):
    full = dict.fromkeys(ROW, 1.0)
    rows = ["clip", "csls", "vsepp", "cca", "dcca", "ranker"]
    plots.plot_run([], {"ceiling": 1.0, "rows": rows, **dict.fromkeys(rows, full)}, "run", tmp_path / "run.png")
    axis = figures[0].axes[2]
    boxes = [text.get_window_extent() for text in axis.texts]
    assert len(boxes) == 18
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])
    legend = axis.get_legend().get_window_extent()
    assert not any(one.overlaps(legend) for one in boxes)


def test_no_axis_of_shares_goes_beyond_100(tmp_path, figures):
    rows = {"CLIP": (89.0, np.nan), "ours": (100.0, 0.5)}
    plots.plot_recall(
        {"t2i": {row: dict.fromkeys(ROW, value) for row, value in rows.items()}}, {"t2i": 100.0}, "recall",
        tmp_path / "recall.png",
    )  # fmt: skip
    assert [axis.get_xlim()[1] for axis in figures[0].axes] == [100.0] * 3
    assert [line.get_clip_on() for line in figures[0].axes[0].lines if line.get_marker() == "o"] == [False] * 2
