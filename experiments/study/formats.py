"""A table of results for the terminal, as CSV, Markdown and LaTeX. Shares are in % in all of them."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator, Sequence

import pandas as pd
import rich.table

from experiments.results.text import markdown as quoted
from experiments.results.text import visible
from experiments.study.table import SUMMED, Against, Line, Table
from rank_xmodal.evaluation.class_gallery import CLASS_MAP
from rank_xmodal.evaluation.judging import MEAN_RANK, SHOWN

_HEADING, _ROW = 12, 24  # characters of a heading's line, and of a row's name that stay together
# The double quote becomes two single ones: \textquotedbl needs another font encoding than LaTeX's own.
_NAMES = r"\textbackslash{} \textasciitilde{} \textasciicircum{} \textless{} \textgreater{} \textbar{} '' $\pm$"
_LATEX = {**{sign: f"\\{sign}" for sign in "&%$#_{}"}, **dict(zip('\\~^<>|"±', _NAMES.split(), strict=True))}


def _text(value: float, form: str = ".2f", error: float = math.nan) -> str:
    return "" if math.isnan(value) else f"{value:{form}}" + ("" if math.isnan(error) else f" ± {error:.2f}")


def _cells(table: Table, line: Line) -> dict[str, str]:
    """Return a line as people read it, by column."""
    cells = {"": line.row}
    by_class = [CLASS_MAP] if all(CLASS_MAP in one.metrics for one in (line, *table.lines)) else []
    for name in (*table.metrics, *by_class):
        cells[name] = _text(line.figure(name).mean, error=line.figure(name).sd)
    cells["Rsum"] = _text(line.rsum, ".1f")
    for other in table.against:
        one = line.against.get(other, Against())
        tested = not math.isnan(one.holm)
        cells[f"- {other}"] = _text(one.gain, "+.2f", math.nan if tested else one.error) if table.gains else ""
        cells[f"p {other}"] = "< 0.001" if one.holm < 0.001 else _text(one.holm, ".3f")
    cells[f"published {' / '.join(SUMMED)}"] = " / ".join(f"{x:.2f}" for x in line.published)
    return {**cells, **line.facts}


def _blocks(table: Table) -> Iterator[tuple[str, str, list[str], list[list[str]]]]:
    """Yield heading, caption, columns and cells of each protocol and direction; what no line has is no column."""
    every = [_cells(table, line) for line in table.lines]
    names = dict.fromkeys(name for cells in every for name in cells)  # rows without training have no costs
    columns = [name for name in names if name == "" or any(cells.get(name) for cells in every)]
    for of, lines in table.blocks.items():
        cells = [_cells(table, line) for line in lines]
        rows = [[own.get(name, "") for name in columns] for own in cells]
        yield table.heading(*of), table.caption(*of), columns, rows


def terminal(table: Table) -> Iterator[rich.table.Table]:
    """Yield a table for each protocol and direction; print it where [...] in a name is no markup."""
    for heading, caption, columns, rows in _blocks(table):
        shown = rich.table.Table(title=heading, caption=caption)
        for column in columns:
            # Figures stay in one line; headings break, so that a dozen columns find room.
            heading = "\n".join(textwrap.wrap(column, _HEADING))
            narrowest = None if column else min(_ROW, max(len(row[0]) for row in rows))
            shown.add_column(
                heading, justify="right" if column else "left", no_wrap=bool(column), overflow="fold",
                min_width=narrowest,
            )  # fmt: skip
        for row in rows:
            shown.add_row(*row)
        yield shown


def frame(table: Table) -> pd.DataFrame:
    """Return everything, unrounded: `R@1 sd` is the standard deviation, `± X` the gain's error, `p X` corrected."""
    rows = []
    for line in table.lines:
        protocol, direction = line.of
        cells = {"direction": direction, "protocol": protocol, "row": line.row, "seeds": len(line.outcomes)}
        for name in line.metrics:
            cells[name], cells[f"{name} sd"] = line.figure(name)
        cells["Rsum"] = line.rsum
        for other in table.against:
            one = line.against.get(other, Against())
            cells |= {f"- {other}": one.gain, f"± {other}": one.error, f"p {other}": one.holm, f"raw p {other}": one.p}
        cells |= {f"{name} published": value for name, value in zip(SUMMED, line.published, strict=False)}
        rows.append({**cells, **line.facts})
    return pd.DataFrame(rows)


def csv(table: Table) -> str:
    """Return `frame` as CSV."""
    return str(frame(table).to_csv(index=False, float_format="%.8g"))


def markdown(table: Table) -> str:
    """Return tables under their headings and above their captions."""
    parts = []
    for heading, caption, columns, rows in _blocks(table):
        page = [f"**{quoted(heading)}**", "", f"| {' | '.join(map(quoted, columns))} |"]
        page += ["|---|" + "---:|" * (len(columns) - 1), *(f"| {' | '.join(map(quoted, row))} |" for row in rows)]
        parts.append("\n".join([*page, "", quoted(caption), ""]))
    return "\n".join(parts)


def latex(table: Table) -> str:
    """Return tables with the rules of the package booktabs, the best of each column in bold."""
    parts = []
    for heading, caption, columns, rows in _blocks(table):
        best = [_best(column, column_of) for column, column_of in zip(columns, zip(*rows, strict=True), strict=True)]
        marked = [
            [rf"\textbf{{{_latex(text)}}}" if text in b else _latex(text) for text, b in zip(row, best, strict=True)]
            for row in rows
        ]
        shown = pd.DataFrame(marked, columns=[_latex(column) for column in columns])
        text = shown.style.hide(axis="index").to_latex(
            hrules=True, position_float="centering", column_format="l" + "r" * (len(columns) - 1),
            caption=_latex(f"{heading}. {caption} Bold: the best of a column."),
            label=f"tab:{re.sub('[^a-z0-9]+', '-', heading.lower())}",
        )  # fmt: skip
        parts.append(f"% Needs \\usepackage{{booktabs}}.\n{text}")
    return "\n".join(parts)


def _best(column: str, texts: Sequence[str]) -> list[str]:
    """Return the best texts of a column, as read: what is equal in print is equally good."""
    values = {text: float(text.split()[0]) for text in texts if text} if column in (*SHOWN, CLASS_MAP, "Rsum") else {}
    best = (min if column == MEAN_RANK else max)(values.values(), default=None)
    return [text for text, value in values.items() if value == best]


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in visible(" ".join(text.split())))


TEXTS = {"csv": csv, "markdown": markdown, "latex": latex}
