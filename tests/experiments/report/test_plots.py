"""Plots of whatever names there are."""

import warnings

import numpy as np
import pytest
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
        "shifts": lambda: plots.plot_shifts({"t2i": {odd: np.array([0, 1, -3])}}, odd, out),
    }
    for name, draw in drawn.items():
        out.unlink(missing_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of a sign that the font doesn't have
            draw()
        assert Image.open(out).size[0] > 300, name
