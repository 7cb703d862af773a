"""The page of a run on a labelled set: class MAP in its table, and the curve of what its epoch was chosen by."""

import re
from dataclasses import replace

from experiments.report.page import write_report


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
