"""Finished runs side by side: CLIP and CSLS first, then each ranker, both directions and Rsum."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pandas as pd
from rich.markup import escape
from rich.table import Table

from experiments.plots import plot_recall, plot_shifts
from experiments.significance import holm, paired_p
from experiments.train import METRIC_GROUPS, SHOWN
from rank_xmodal.embedding_set import DIRECTIONS
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation import MEAN_RANK
from rank_xmodal.files import read_json, read_table
from rank_xmodal.settings import Settings
from rank_xmodal.tracking import metric_key, read_runs

_SUMMED = ("R@1", "R@5", "R@10")
_TESTED = "R@1"  # the metric of the p-values
_P = ("p CLIP", "p CSLS")
_HEADINGS = {"t2i": "text to image", "i2t": "image to text"}

# One run as compared: which row it belongs to, its direction, and what must agree for two to stand in one table.
Entry = dict[str, Any]


def from_folders(folders: list[Path]) -> list[Entry]:
    """Read the test reports of runs' folders.

    Raises
    ------
    UserError
        If a folder holds no finished run with a test report.
    """
    entries = []
    for folder in folders:
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder}: holds no finished run (no config.json). Train it first.")
        facts = read_json(folder / "config.json")
        report = facts.get("test")
        if not report:
            raise UserError(f"{folder}: has no test report, its data has no test split. Leave it out.")
        # What a run of an earlier version doesn't mention was at its default.
        settings = {**Settings.model_validate({}).model_dump(mode="json"), **facts["settings"]}
        entries.append(
            {
                "label": _label(settings["loss"], settings["features"], settings["ranker"]),
                "direction": report["direction"],
                "seed": settings["seed"],
                "settings": {**settings, "lists_given": facts.get("lists_given")},
                "on": facts["fingerprint"],
                "name": str(folder),
                "rows": {row: report[row] for row in ("clip", "csls", "ranker")},
                "ceiling": report["ceiling"],
                "per_query": folder / "test.parquet",
            }
        )
    return entries


def from_experiment(tracking: Path, experiment: str, say: Callable[[str], None] = print) -> list[Entry]:
    """Read the finished runs of an MLflow experiment; of several with the same settings, the newest.

    Runs on data that has been replaced since are left out, and `say` is told.

    Raises
    ------
    UserError
        If there is no such experiment, or it has no run with test metrics.
    """
    newest: dict[tuple, Entry] = {}
    for run in read_runs(tracking, experiment):  # newest first
        metrics, tags, params = run["metrics"], run["tags"], run["params"]
        if "test/R1" not in metrics:
            continue
        rows = {
            row: {name: metrics[f"{prefix}/{metric_key(name)}"] for name in SHOWN}
            for row, prefix in METRIC_GROUPS.items()
        }
        same = {k: v for k, v in params.items() if k != "device"}
        newest.setdefault(
            tuple(sorted(same.items())),
            {
                "label": _label(tags["loss"], tags["features"], tags["ranker"]),
                "direction": tags["direction"],
                "seed": int(tags["seed"]),
                "settings": {k: v for k, v in params.items() if k in Settings.model_fields or "loss_params" in k},
                "on": params["dataset_fingerprint"],
                "name": run["name"],
                "rows": rows,
                "ceiling": metrics["test/ceiling"],
                "per_query": run["artifacts"] / "test.parquet",
            },
        )
    if not newest:
        raise UserError(f"--experiment {experiment!r}: no finished run has test metrics yet.")
    entries = list(newest.values())
    current = [entry for entry in entries if entry["on"] == entries[0]["on"]]
    if len(current) < len(entries):
        say(f"{len(entries) - len(current)} runs on earlier data of the same name are left out.")
    return current


def _label(loss: str, features: str, ranker: str) -> str:
    if ranker != "rank_xmodal":
        return f"{loss} ({ranker})"
    return loss if features == "full" else f"{loss} ({features})"


def _differing(entry: Entry, entries: list[Entry]) -> str:
    """Return the settings that set a run apart from others of its label: seeds are averaged, nothing else is."""
    peers = [other["settings"] for other in entries if other["label"] == entry["label"]]
    own = {k: v for k, v in entry["settings"].items() if k not in ("seed", "device")}
    apart = [f"{k}={str(v)[:20]}" for k, v in own.items() if any(peer.get(k) != v for peer in peers)]
    return f" {', '.join(apart)}" if apart else ""


def summarise(entries: list[Entry]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Return row -> direction -> metric -> one value per seed, rows in the order CLIP, CSLS, rankers by name.

    Raises
    ------
    UserError
        If two runs were evaluated on different data: their figures can't be compared.
    """
    first = entries[0]
    for entry in entries[1:]:
        if entry["on"] != first["on"]:
            raise UserError(
                f"{first['name']} and {entry['name']} were evaluated on different data; their figures can't be "
                "compared. Compare runs of one embedding set."
            )
    table: dict[str, dict[str, dict[str, list[float]]]] = {"CLIP": {}, "CSLS": {}}
    for entry in entries:
        for row, name in (("clip", "CLIP"), ("csls", "CSLS")):
            table[name].setdefault(entry["direction"], {metric: [entry["rows"][row][metric]] for metric in SHOWN})
    for (label, direction), group in _groups(entries).items():
        values = {name: [entry["rows"]["ranker"][name] for entry in group] for name in SHOWN}
        table.setdefault(label, {})[direction] = values
    return table


def _groups(entries: list[Entry]) -> dict[tuple[str, str], list[Entry]]:
    """Return the runs of each label and direction, which differ in nothing but the seed, by rising seed."""
    grouped: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: entry["seed"]):
        grouped[entry["label"] + _differing(entry, entries), entry["direction"]].append(entry)
    return dict(sorted(grouped.items()))


def p_values(entries: list[Entry]) -> dict[tuple[str, str], tuple[float, float]]:
    """Return for each row and direction the p-values of its R@1 against CLIP's and CSLS's, over the same queries.

    A query's value is its mean over the seeds. Rows without their queries' figures (test.parquet) are left out.
    """
    found = {}
    for (label, direction), group in _groups(entries).items():
        frames = [pd.read_parquet(entry["per_query"]) for entry in group if entry["per_query"].is_file()]
        if len(frames) < len(group):
            continue
        clip, csls, ranker = (
            np.mean([frame[f"{row}/{_TESTED}"].to_numpy() for frame in frames], axis=0)
            for row in ("clip", "csls", "ranker")
        )
        found[label, direction] = paired_p(ranker, clip), paired_p(ranker, csls)
        if ("CSLS", direction) not in found:
            found["CSLS", direction] = paired_p(csls, clip), float("nan")
    return found


def corrected(found: dict[tuple[str, str], tuple[float, float]]) -> dict[tuple[str, str], tuple[float, float]]:
    """Return `p_values` after Holm's correction: all of them, whichever direction or opponent, are one family."""
    pairs = np.array(list(found.values()), dtype=float).reshape(-1, 2)
    tested = ~np.isnan(pairs)
    pairs[tested] = holm(pairs[tested])
    return {key: (float(clip), float(csls)) for key, (clip, csls) in zip(found, pairs, strict=True)}


def rsum(row: dict[str, dict[str, list[float]]]) -> float | None:
    """Return the six mean R@K added up, in %, or None where a direction is missing."""
    if any(direction not in row for direction in DIRECTIONS):
        return None
    return 100 * sum(mean(row[direction][name]) for direction in DIRECTIONS for name in _SUMMED)


def frames(entries: list[Entry]) -> dict[str, pd.DataFrame]:
    """Return for each direction that occurs the table that every format is written from.

    Columns: row, seeds, each metric's mean over the seeds and its standard deviation ("R@1", "R@1 sd", ...), Rsum, and
    the Holm-corrected "p CLIP" and "p CSLS". Shares are in %; NaN where there is nothing to say.
    """
    summary = summarise(entries)
    tested = corrected(p_values(entries))
    found: dict[str, pd.DataFrame] = {}
    for direction in DIRECTIONS:
        rows = []
        for label, row in summary.items():
            if direction not in row:
                continue
            cells: dict[str, Any] = {"row": label, "seeds": len(row[direction][_TESTED])}
            for name in SHOWN:
                values = [(1 if name == MEAN_RANK else 100) * value for value in row[direction][name]]
                cells[name] = mean(values)
                cells[f"{name} sd"] = stdev(values) if len(values) > 1 else math.nan
            total = rsum(row)
            cells["Rsum"] = math.nan if total is None else total
            cells.update(zip(_P, tested.get((label, direction), (math.nan, math.nan)), strict=True))
            rows.append(cells)
        if rows:
            found[direction] = pd.DataFrame(rows)
    return found


def _ceilings(entries: list[Entry], direction: str) -> list[float]:
    """Return the ceilings of a direction's runs in %: one, unless their lists differ in depth."""
    return sorted({round(100 * entry["ceiling"], 2) for entry in entries if entry["direction"] == direction})


def _caption(entries: list[Entry], direction: str) -> str:
    return (
        "R@K: share of queries with a relevant item in the top K, in %; "
        f"ceiling {' / '.join(map(str, _ceilings(entries, direction)))}. "
        f"p: {_TESTED} against that row, paired randomisation test over the queries, Holm-corrected for all p of the "
        "comparison."
    )


def _cells(row: dict[str, Any]) -> list[str]:
    """Return a row of a frame as text, its label first, for all formats that people read."""

    def text(value: float, digits: int) -> str:
        return "" if math.isnan(value) else f"{value:.{digits}f}"

    cells = [str(row["row"])]
    for name in SHOWN:
        spread = text(row[f"{name} sd"], 2)
        cells.append(text(row[name], 2) + (f" ± {spread}" if spread else ""))
    cells.append(text(row["Rsum"], 1))
    return cells + ["< 0.001" if row[name] < 0.001 else text(row[name], 3) for name in _P]


_COLUMNS = ("", *SHOWN, "Rsum", *_P)


def _rows(frame: pd.DataFrame) -> list[list[str]]:
    return [_cells({str(key): value for key, value in row.items()}) for row in frame.to_dict("records")]


def as_tables(entries: list[Entry], title: str) -> list[Table]:
    """Return one rich table for each direction that occurs; R@K is the hit rate, in %."""
    tables = []
    for direction, frame in frames(entries).items():
        # Rich would take [...] in a label for markup and swallow it.
        table = Table(title=escape(f"{title}: {_HEADINGS[direction]}"), caption=_caption(entries, direction))
        table.add_column("")
        for name in _COLUMNS[1:]:
            table.add_column(name, justify="right", no_wrap=True)
        for label, *cells in _rows(frame):
            table.add_row(escape(label), *cells)
        tables.append(table)
    return tables


def as_csv(entries: list[Entry]) -> str:
    """Return both directions as one CSV table, unrounded; the columns are those of `frames` behind the direction."""
    parts = [frame.assign(direction=direction) for direction, frame in frames(entries).items()]
    table = pd.concat(parts)
    text: str = table[["direction", *table.columns.drop("direction")]].to_csv(index=False, float_format="%.8g")
    return text


def as_markdown(entries: list[Entry], title: str) -> str:
    """Return one Markdown table a direction, each under its heading and above its caption."""
    parts = []
    for direction, frame in frames(entries).items():
        lines = [f"**{_markdown(f'{title}: {_HEADINGS[direction]}')}**", ""]
        lines += [f"| {' | '.join(_COLUMNS)} |", "|---|" + "---:|" * (len(_COLUMNS) - 1)]
        lines += [f"| {' | '.join(map(_markdown, cells))} |" for cells in _rows(frame)]
        parts.append("\n".join([*lines, "", _markdown(_caption(entries, direction)), ""]))
    return "\n".join(parts)


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|&~#])", r"\\\1", " ".join(text.split()))


_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
}


def as_latex(entries: list[Entry], title: str) -> str:
    """Return one LaTeX table a direction, with the rules of the package booktabs."""
    parts = []
    for direction, frame in frames(entries).items():
        rows = [" & ".join(map(_latex, cells)) + r" \\" for cells in _rows(frame)]
        heading = " & ".join(map(_latex, _COLUMNS)) + r" \\"
        lines = [
            r"% Needs \usepackage{booktabs}.",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(f'{title}: {_HEADINGS[direction]}. {_caption(entries, direction)}')}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(_COLUMNS) - 1)}}}",
            *(r"\toprule", heading, r"\midrule", *rows, r"\bottomrule"),
            r"\end{tabular}",
            r"\end{table}",
        ]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(text.split()))


def rank_shifts(entries: list[Entry]) -> dict[str, dict[str, np.ndarray]]:
    """Return direction -> row -> by how many ranks each query's first relevant item rose above CLIP's rank of it.

    Of several seeds all queries of each are there. Rows without their queries' figures (test.parquet) are left out.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    columns = {f"{row}/{MEAN_RANK}": "float64" for row in ("clip", "csls", "ranker")}
    for (label, direction), group in _groups(entries).items():
        if not all(entry["per_query"].is_file() for entry in group):
            continue
        read = [read_table(entry["per_query"], columns, "test results") for entry in group]
        rows = found.setdefault(direction, {})
        for row, name in (("csls", "CSLS"), ("ranker", label)):
            shifts = [(one[f"clip/{MEAN_RANK}"] - one[f"{row}/{MEAN_RANK}"]).to_numpy() for one in read]
            rows.setdefault(name, np.concatenate(shifts))
    return found


def write_plots(entries: list[Entry], title: str, folder: Path, say: Callable[[str], None] = print) -> list[Path]:
    """Draw recall.png and rank_shifts.png into a folder and return what was drawn."""
    made = [folder / "recall.png"]
    ceilings: dict[str, list[float]] = {direction: _ceilings(entries, direction) for direction in DIRECTIONS}
    plot_recall(frames(entries), ceilings, title, made[0])
    shifts = rank_shifts(entries)
    if shifts:
        made.append(folder / "rank_shifts.png")
        plot_shifts(shifts, title, made[1])
    else:
        say("No run has its queries' figures (test.parquet): rank_shifts.png is left out.")
    return made
