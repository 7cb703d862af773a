"""A table of results for the terminal, as CSV, Markdown and LaTeX. Shares are in % in all of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import pandas as pd
import rich.table
from rich.markup import escape

from experiments.study.table import SUMMED, Against, Line, Table
from rank_xmodal.evaluation.judging import MEAN_RANK

# The double quote becomes two single ones: \textquotedbl needs another font encoding than LaTeX's own.
_NAMES = r"\textbackslash{} \textasciitilde{} \textasciicircum{} \textless{} \textgreater{} \textbar{} '' $\pm$"
_LATEX = {**{sign: f"\\{sign}" for sign in "&%$#_{}"}, **dict(zip('\\~^<>|"±', _NAMES.split(), strict=True))}


def _text(value: float, form: str = ".2f", error: float = math.nan) -> str:
    return "" if math.isnan(value) else f"{value:{form}}" + ("" if math.isnan(error) else f" ± {error:.2f}")


def _cells(table: Table, line: Line) -> dict[str, str]:
    """Return a line as people read it, by column."""
    cells = {name: _text(line.figures[name].mean, error=line.figures[name].sd) for name in table.metrics}
    cells["Rsum"] = _text(line.rsum, ".1f")
    for other in table.against:
        one = line.against.get(other, Against(math.nan))
        cells[f"- {other}"] = _text(one.gain, "+.2f", one.error) if table.gains else ""
        cells[f"p {other}"] = "< 0.001" if one.holm < 0.001 else _text(one.holm, ".3f")
    cells[f"published {' / '.join(SUMMED)}"] = " / ".join(f"{x:.2f}" for x in line.published)
    return {**cells, **line.facts}


def _blocks(table: Table) -> Iterator[tuple[str, str, list[str], list[dict[str, str]]]]:
    """Yield for each protocol and direction heading, caption, columns and lines; what no line has is no column."""
    every = [_cells(table, line) for line in table.lines]
    columns = [name for name in (every[0] if every else ()) if any(cells[name] for cells in every)]
    for of, caption in table.captions.items():
        lines = [{"": line.row, **_cells(table, line)} for line in table.block(*of)]
        yield table.heading(*of), caption, ["", *columns], lines


def terminal(table: Table) -> Iterator[rich.table.Table]:
    """Yield a table for each protocol and direction."""
    for heading, caption, columns, lines in _blocks(table):
        # Rich would take [...] in a name for markup and swallow it.
        shown = rich.table.Table(title=escape(heading), caption=escape(caption))
        for column in columns:
            shown.add_column(escape(column), justify="right" if column else "left", no_wrap=bool(column))
        for cells in lines:
            shown.add_row(*(escape(cells[column]) for column in columns))
        yield shown


def frame(table: Table) -> pd.DataFrame:
    """Return everything, unrounded: `R@1 sd` is the standard deviation, `± X` the gain's error, `p X` corrected."""
    rows = []
    for line in table.lines:
        cells = {"direction": line.direction, "protocol": line.protocol, "row": line.row, "seeds": line.repeats}
        for name, (value, sd) in line.figures.items():
            cells |= {name: value, f"{name} sd": sd}
        cells["Rsum"] = line.rsum
        for other in table.against:
            one = line.against.get(other, Against(math.nan))
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
    for heading, caption, columns, lines in _blocks(table):
        page = [f"**{_markdown(heading)}**", "", f"| {' | '.join(columns)} |", "|---|" + "---:|" * (len(columns) - 1)]
        page += [f"| {' | '.join(_markdown(cells[column]) for column in columns)} |" for cells in lines]
        parts.append("\n".join([*page, "", _markdown(caption), ""]))
    return "\n".join(parts)


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|&~#])", r"\\\1", " ".join(text.split()))


def latex(table: Table) -> str:
    """Return tables with the rules of the package booktabs, the best of each column in bold."""
    parts = []
    for heading, caption, columns, lines in _blocks(table):
        shown = pd.DataFrame([{_latex(c): _latex(cells[c]) for c in columns} for cells in lines])
        for column in {*table.metrics, "Rsum"} & {*columns}:
            # As read: what is equal in print is equally good.
            values = [float(cells[column].split()[0] if cells[column] else "nan") for cells in lines]
            best = min(values) if column == MEAN_RANK else max(values)
            shown[column] = [rf"\textbf{{{t}}}" if v == best else t for t, v in zip(shown[column], values, strict=True)]
        label = f"tab:{re.sub('[^a-z0-9]+', '-', heading.lower())}"
        style, said = shown.style.hide(axis="index"), _latex(f"{heading}. {caption} Bold: the best of a column.")
        align = "l" + "r" * (len(columns) - 1)
        text = style.to_latex(hrules=True, caption=said, label=label, column_format=align, position_float="centering")
        parts.append(f"% Needs \\usepackage{{booktabs}}.\n{text}")
    return "\n".join(parts)


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(text.split()))


TEXTS = {"csv": csv, "markdown": markdown, "latex": latex}
