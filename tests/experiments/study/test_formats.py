"""The same figures in every format, safely quoted."""

import io
import re

import numpy as np
import pandas as pd
import pytest

from experiments.cli.terminal import console
from experiments.study import formats
from experiments.study.table import Against, Line, Outcome, Table
from rank_xmodal.evaluation.judging import MEAN_RANK, SHOWN

SAID = {"split": "test", "queries": 300, "candidates": 51, "gallery": 1_000, "ceiling": 1.0}


def line(row="listnet", direction="t2i", values=(0.5,), rank=3.0, **named):
    """Return a line with these means of every metric."""
    outcomes = [
        Outcome(row, direction, "gallery", SAID | {"ranker": dict.fromkeys(SHOWN, v) | {MEAN_RANK: rank}}, None, {})
        for v in values
    ]
    return Line(row, "ranker", outcomes, **named)


def table(*lines, against=("CLIP",), **named):
    return Table("title", against=against, lines=list(lines), **named)


def text_of(shown):
    printed = console(200)
    with printed.capture() as captured:
        printed.print(shown)
    return captured.get()


def test_csv_markdown_and_latex_hold_the_same_figures_and_escape_names():
    odd = line("a_b|c & 50%", "i2t", (0.7,))
    made = table(line(values=(0.6, 0.5)), odd)
    mine = pd.read_csv(io.StringIO(formats.csv(made))).iloc[0]
    assert mine["R@1"] == pytest.approx(55)
    assert mine["R@1 sd"] == pytest.approx(100 * np.std([0.5, 0.6], ddof=1))
    assert (mine["seeds"], mine["row"], mine["direction"], mine["protocol"]) == (2, "listnet", "t2i", "gallery")
    markdown, latex = formats.markdown(made), formats.latex(made)
    for text in (markdown, latex, text_of(next(formats.terminal(made)))):
        assert "55.00 ± 7.07" in text.replace(r"$\pm$", "±")
        assert "standard deviation (n - 1) over 2 seeds" in " ".join(text.split())
    assert r"a\_b\|c \& 50%" in markdown
    assert r"a\_b\textbar{}c \& 50\%" in latex


def test_csv_is_unrounded_and_holds_raw_and_corrected_p():
    made = table(line(against={"CLIP": Against(1 / 3, 0.1, 0.0123456, 0.0246912)}, published=(1.0, 2.0, 3.0)))
    mine = pd.read_csv(io.StringIO(formats.csv(made))).iloc[0]
    assert mine[["- CLIP", "± CLIP", "raw p CLIP", "p CLIP"]].tolist() == [0.33333333, 0.1, 0.0123456, 0.0246912]
    assert mine[["R@1 published", "R@5 published", "R@10 published"]].tolist() == [1, 2, 3]


def test_people_are_shown_what_there_is():
    cells = formats._cells(table(), line(rsum=300.0, against={"CLIP": Against(1.5, 0.2, 0.0001, 0.0002)}))
    assert (cells["Rsum"], cells["- CLIP"], cells["p CLIP"]) == ("300.0", "+1.50", "< 0.001")
    cells = formats._cells(
        table(), line(against={"CLIP": Against(-1.5, 0.2)}, facts={"epoch": "3"}, published=(1, 2, 3))
    )
    assert (cells["- CLIP"], cells["p CLIP"], cells["epoch"]) == ("-1.50 ± 0.20", "", "3")
    assert cells["published R@1 / R@5 / R@10"] == "1.00 / 2.00 / 3.00"
    heading = formats.markdown(table(line())).splitlines()[2]
    assert heading == "|  | R@1 | R@5 | R@10 | MRR | NDCG@10 | MeanRank |", "no gain, no p, one direction"
    assert "- CLIP" not in formats.markdown(table(line(against={"CLIP": Against(1, p=0.5, holm=0.5)}), gains=False))


def test_of_metrics_those_that_the_table_is_about_are_shown():
    assert formats.markdown(table(line(), metrics=("MRR",))).splitlines()[2] == "|  | MRR |"
    assert "NDCG@10" in formats.csv(table(line(), metrics=("MRR",)))


def test_the_best_of_each_column_is_bold_and_every_table_has_its_label():
    made = table(
        line("one", values=(0.5,), rank=2.0), line("two", values=(0.5000001,), rank=2.5), line("three", values=(0.4,)),
        line("one", "i2t", values=(0.5,)),
    )  # fmt: skip
    one, other = formats.latex(made).split(r"\begin{table}")[1:]
    rows = {row.split(" & ")[0]: row for row in one.splitlines() if row.endswith(r"\\")}
    assert rows["one"].count(r"\textbf{50.00}") == rows["two"].count(r"\textbf{50.00}") == 5, "equal in print"
    assert r"\textbf{2.00}" in rows["one"]
    assert r"\textbf" not in rows["three"]
    assert r"\label{tab:title-text-to-image}" in one
    assert r"\label{tab:title-image-to-text}" in other
    for part in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{lrrrrrr}", r"\centering"):
        assert part in one


def test_latex_needs_no_font_encoding_of_its_own():
    made = Table('a "quoted" name', lines=[line()])
    assert "\\textquotedbl" not in formats.latex(made)
    assert "a ''quoted'' name" in formats.latex(made)


def test_rich_takes_nothing_in_a_name_for_markup():
    assert "[bold]x[/bold] :smile:" in text_of(next(formats.terminal(table(line("[bold]x[/bold] :smile:")))))


def test_control_characters_of_a_name_reach_no_terminal_and_no_text():
    odd = "a\x1b[31m\x07|\x9b\u202e\nb"
    made = Table(odd, lines=[line(odd, facts={odd: odd})])
    shown = text_of(next(formats.terminal(made)))
    for text in (shown, formats.markdown(made), formats.latex(made)):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    assert r"a\x1b[31m\x07|\x9b\u202e" in shown
    rows = [row for row in formats.markdown(made).splitlines() if row.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {9}, "as many cells in each row"
