"""The page of a run on a labelled set: class MAP in its table, and the curve of what its epoch was chosen by."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from experiments.report.page import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def page_of(judged, place, out, shares=None, **facts):
    """Write a run's page, with class MAP by row where `shares` are given, and read it."""
    own, result = judged["t2i"]
    if shares:
        rows = {row: {**result.report[row], "class MAP": share} for row, share in shares.items()}
        report = {**result.report, "rows": list(shares), **rows, "labels_fingerprint": "0" * 64}
        result = replace(result, report=report)
    return write_report(out / "page.html", "run", place[1], {**own, **facts}, result).read_text(encoding="utf-8")


def test_class_map_is_in_the_table_and_explained(judged, place, tmp_path):
    page = page_of(judged, place, tmp_path, {"clip": 0.25, "csls": 0.75, "ranker": 0.5})
    table = page[page.index('<table class="figures"') : page.index("</table>")]
    assert re.findall(r'<th scope="col">([^<]*)</th>', table)[-2:] == ["Mean rank", "Class MAP"]
    last = [re.findall(r"(?s)<td>(.*?)</td>", row)[-1] for row in table.split("</tr>")[1:5]]
    assert last == ["25.0", "<strong>75.0</strong>", "50.0", "+25.0"]
    note = re.search(r'(?s)<p class="note small" id="about-figures">.*?</p>', page).group()
    assert "Class MAP is the mean average precision over the whole gallery" in note
    assert "all that shares a class with the query is relevant" in note


def test_a_report_without_it_says_nothing_of_it(judged, place, tmp_path):
    assert "class map" not in page_of(judged, place, tmp_path).lower()


def test_what_the_best_epoch_was_chosen_by_is_drawn(judged, place, tmp_path):
    history = [{"epoch": k, "loss": 1.0, "val_MAP": 0.5} for k in range(3)]
    page = page_of(judged, place, tmp_path, scorer="mlp", history=history, best_epoch=2)
    assert "Validation by epoch: class MAP of both directions, %; epoch 0 is before training." in page


MEASURED = """<body><iframe style="width: 400px; height: 900px; border: 0" srcdoc="{}"></iframe><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument, wide = page.querySelector(".wide");
  const lines = [...page.querySelectorAll(".foot")].map(foot => foot.getBoundingClientRect().height);
  document.body.dataset.told = JSON.stringify([wide.scrollWidth - wide.clientWidth, Math.max(...lines)]);
}};</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_on_a_telephone_no_column_is_cut_off_and_what_stands_below_a_picture_is_one_line(judged, place, tmp_path):
    page = page_of(judged, place, tmp_path, {"clip": 0.25, "csls": 0.75, "ranker": 0.5})
    outer = tmp_path / "outer.html"
    outer.write_text(MEASURED.format(html.escape(page)), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-background-networking", "--disable-gpu",
               f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom",
               outer.as_uri()]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    beyond, tallest = json.loads(html.unescape(re.search(r'data-told="([^"]*)"', shown).group(1)))
    assert beyond == 0
    assert tallest < 20, "two lines would be 31 pixels"
