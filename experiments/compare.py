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
from experiments.train import SHOWN
from rank_xmodal.embedding_set import DIRECTIONS, check_direction
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation import MEAN_RANK
from rank_xmodal.files import read_json, read_table
from rank_xmodal.settings import Settings
from rank_xmodal.tracking import read_runs

_SUMMED = ("R@1", "R@5", "R@10")
_TESTED = "R@1"  # the metric of the p-values
_P = ("p CLIP", "p CSLS")
_ROWS = ("clip", "csls", "ranker")  # of a report
# What a report says of its first stage, and what it is called when two differ.
_STAGE = {"split": "split", "candidates": "depth of CLIP's list", "gallery": "gallery", "queries": "number of queries"}
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
    for folder in folders:
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder}: holds no finished run (no config.json). Train it first.")
    return [_entry(folder, str(folder)) for folder in folders]


def from_experiment(tracking: Path, experiment: str, say: Callable[[str], None] = print) -> list[Entry]:
    """Read the finished runs of an MLflow experiment; of several trainings that are the same, the newest.

    Runs on data that has been replaced since, and runs whose artifacts are gone, are left out, and `say` is told.

    Raises
    ------
    UserError
        If there is no such experiment, or it has no run with test metrics.
    """
    entries: list[Entry] = []
    for run in read_runs(tracking, experiment):  # newest first
        if "test/R1" not in run["metrics"]:
            continue
        if not (run["artifacts"] / "config.json").is_file():
            say(f"{run['name']}: {run['artifacts']} holds no config.json; the run is left out.")
            continue
        entry = _entry(run["artifacts"], f"{run['name']} ({run['run_id'][:8]})")
        if not any(_same_training(entry, newer) and entry["on"] == newer["on"] for newer in entries):
            entries.append(entry)
    if not entries:
        raise UserError(f"--experiment {experiment!r}: no finished run has test metrics yet.")
    current = [entry for entry in entries if entry["on"] == entries[0]["on"]]
    if len(current) < len(entries):
        say(f"{len(entries) - len(current)} runs on earlier data of the same name are left out.")
    return current


def _entry(folder: Path, name: str) -> Entry:
    """Read a run's config.json, whether in its own folder or among its artifacts in MLflow."""
    path = folder / "config.json"
    facts = read_json(path)
    try:
        report = facts["test"]
        if not report:
            raise UserError(f"{folder}: has no test report, its data has no test split. Leave it out.")
        # What a run of an earlier version doesn't mention was at its default.
        settings = {**Settings.model_validate({}).model_dump(mode="json"), **facts["settings"]}
        return {
            "label": _label(settings["loss"], settings["features"], settings["ranker"]),
            "direction": check_direction(report["direction"]),
            "seed": settings["seed"],
            "settings": {**settings, "lists_given": facts.get("lists_given")},
            "on": facts["fingerprint"],
            "name": name,
            "rows": {row: {metric: report[row][metric] for metric in SHOWN} for row in _ROWS},
            "ceiling": report["ceiling"],
            "stage": {key: report[key] for key in _STAGE},
            "per_query": folder / "test.parquet",
        }
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: is no finished run's, or of another version ({error!r}). Train again.") from error


def _same_training(one: Entry, other: Entry) -> bool:
    """Say whether two runs differ in nothing, the seed included, but perhaps the device."""

    def key(entry: Entry) -> tuple[str, dict[str, Any]]:
        return entry["direction"], {k: v for k, v in entry["settings"].items() if k != "device"}

    return key(one) == key(other)


def _label(loss: str, features: str, ranker: str) -> str:
    if ranker != "rank_xmodal":
        return f"{loss} ({ranker})"
    return loss if features == "full" else f"{loss} ({features})"


def _differing(entry: Entry, entries: list[Entry]) -> str:
    """Return the settings that set a run apart from others of its label: seeds are averaged, nothing else is."""
    peers = [other["settings"] for other in entries if other["label"] == entry["label"]]
    own = {k: v for k, v in entry["settings"].items() if k not in ("seed", "device")}
    # Whole values: two that are cut to the same text would be averaged as if they were seeds.
    apart = [f"{k}={v}" for k, v in own.items() if any(peer.get(k) != v for peer in peers)]
    return f" {', '.join(apart)}" if apart else ""


def check_comparable(entries: list[Entry]) -> None:
    """Check that runs may stand in one table, those of one direction beside each other.

    Raises
    ------
    UserError
        If two runs were evaluated on different data, splits, galleries or depths, if CLIP's figures differ although
        all that is the same, or if a training is named twice. It names both.
    """
    for place, entry in enumerate(entries):
        first = entries[0]
        if entry["on"] != first["on"]:
            raise UserError(
                f"{first['name']} and {entry['name']} were evaluated on different data (fingerprints "
                f"{first['on'][:12]} and {entry['on'][:12]}); their figures can't be compared. Compare runs of one "
                "embedding set."
            )
        first = next(other for other in entries if other["direction"] == entry["direction"])
        for key, what in _STAGE.items():
            mine, own = first["stage"][key], entry["stage"][key]
            if mine != own:
                raise UserError(
                    f"{first['name']} and {entry['name']} were evaluated with a different {what}, {mine} and {own}; "
                    "their figures can't be compared. Leave one out, or train it again."
                )
        if not _close(first["rows"]["clip"], entry["rows"]["clip"]):
            raise UserError(
                f"{first['name']} and {entry['name']} have different figures of CLIP on the same data "
                f"({_TESTED} {first['rows']['clip'][_TESTED]:.6f} and {entry['rows']['clip'][_TESTED]:.6f}): they were "
                "evaluated by different versions. Train the older one again."
            )
        for other in entries[:place]:
            if _same_training(entry, other):
                raise UserError(
                    f"{other['name']} and {entry['name']} are the same training with the same seed; counted twice they "
                    "would narrow the spread. Leave one out."
                )


def _close(one: dict[str, float], other: dict[str, float]) -> bool:
    return all(math.isclose(one[name], other[name], rel_tol=1e-9) for name in SHOWN)


def _distinct(entries: list[Entry], direction: str, row: str) -> list[Entry]:
    """Return a run for each different outcome of a row that isn't trained.

    CLIP has one. CSLS has as many as there are query banks: a run that was trained again on validation, too, has a
    larger one, and of large sets each seed draws its own.
    """
    found: list[Entry] = []
    for entry in sorted(entries, key=lambda entry: entry["seed"]):
        own = entry["rows"][row]
        if entry["direction"] == direction and not any(_close(own, other["rows"][row]) for other in found):
            found.append(entry)
    return found


def summarise(entries: list[Entry]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Return row -> direction -> metric -> one value per seed, rows in the order CLIP, CSLS, rankers by name.

    Raises
    ------
    UserError
        If the figures of two runs can't be compared, see `check_comparable`.
    """
    check_comparable(entries)
    table: dict[str, dict[str, dict[str, list[float]]]] = {"CLIP": {}, "CSLS": {}}
    for direction in dict.fromkeys(entry["direction"] for entry in entries):
        for row, name in (("clip", "CLIP"), ("csls", "CSLS")):
            found = [entry["rows"][row] for entry in _distinct(entries, direction, row)]
            table[name][direction] = {metric: [figures[metric] for figures in found] for metric in SHOWN}
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

    A query's value is its mean over the seeds, that of CSLS its mean over the query banks; a ranker is tested against
    CSLS with its own bank. Rows without their queries' figures (test.parquet) are left out.

    Raises
    ------
    UserError
        If a file is broken or two of one direction hold different queries.
    """
    read = _per_query(entries)
    found: dict[tuple[str, str], tuple[float, float]] = {}
    present = [entry for entry in entries if entry["name"] in read]
    for direction in DIRECTIONS:
        means = _means([read[entry["name"]] for entry in _distinct(present, direction, "csls")])
        if means:
            found["CSLS", direction] = paired_p(means["csls"], means["clip"]), math.nan
    for key, group in _groups(entries).items():
        if all(entry["name"] in read for entry in group):
            means = _means([read[entry["name"]] for entry in group])
            found[key] = paired_p(means["ranker"], means["clip"]), paired_p(means["ranker"], means["csls"])
    return found


def _means(frames: list[pd.DataFrame]) -> dict[str, np.ndarray]:
    """Return each row's R@1 of every query, (Q,), meaned over the frames; nothing of none."""
    if not frames:
        return {}
    return {row: np.mean([frame[f"{row}/{_TESTED}"].to_numpy() for frame in frames], axis=0) for row in _ROWS}


def _per_query(entries: list[Entry]) -> dict[str, pd.DataFrame]:
    """Return the queries' figures of the runs that have them, by the run's name: R@1 and the rank of each row.

    Raises
    ------
    UserError
        If a file is broken or two of one direction hold different queries: their values would be paired wrongly.
    """
    columns = {"query": "int64"} | {f"{row}/{metric}": "float64" for row in _ROWS for metric in (_TESTED, MEAN_RANK)}
    found: dict[str, pd.DataFrame] = {}
    firsts: dict[str, Entry] = {}
    for entry in entries:
        if not entry["per_query"].is_file():
            continue
        frame = read_table(entry["per_query"], columns, "test results")
        first = firsts.setdefault(entry["direction"], entry)
        if not frame["query"].equals(found.get(first["name"], frame)["query"]):
            raise UserError(
                f"{first['per_query']} and {entry['per_query']}: hold different queries ({len(found[first['name']]):,} "
                f"and {len(frame):,}), which can't be paired. Train the older run again."
            )
        found[entry["name"]] = frame
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


def _caption(entries: list[Entry], direction: str) -> str:
    shown = [entry for entry in entries if entry["direction"] == direction]
    stage = shown[0]["stage"]
    seeds = sorted({len(group) for (_, of), group in _groups(entries).items() if of == direction})
    banks = len(_distinct(entries, direction, "csls"))
    said = [
        "R@K: share of queries with a relevant item in the top K (hit rate), in %.",
        f"{stage['split']}: {stage['queries']:,} queries, CLIP's top {stage['candidates']} of a gallery of "
        f"{stage['gallery']:,} reordered; what it lacks is a miss: ceiling {100 * shown[0]['ceiling']:.2f}.",
    ]
    if seeds[-1] > 1:
        said.append(f"±: standard deviation (n - 1) over {' or '.join(map(str, seeds))} seeds.")
    if banks > 1:
        said.append(f"CSLS: mean ± standard deviation over the runs' {banks} different query banks.")
    said.append(
        f"p: {_TESTED} against that row, paired randomisation test over the queries, Holm-corrected for all p of the "
        "comparison."
    )
    return " ".join(said)


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
    '"': "''",  # \textquotedbl needs another font encoding than LaTeX's own
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

    Raises
    ------
    UserError
        As `p_values`.
    """
    read = _per_query(entries)
    found: dict[str, dict[str, np.ndarray]] = {}

    def add(label: str, direction: str, runs: list[Entry], row: str) -> None:
        shown = [read[entry["name"]] for entry in runs if entry["name"] in read]
        if shown and len(shown) == len(runs):
            shifts = [(frame[f"clip/{MEAN_RANK}"] - frame[f"{row}/{MEAN_RANK}"]).to_numpy() for frame in shown]
            found.setdefault(direction, {})[label] = np.concatenate(shifts)

    present = [entry for entry in entries if entry["name"] in read]
    for direction in DIRECTIONS:
        add("CSLS", direction, _distinct(present, direction, "csls"), "csls")
    for (label, of), group in _groups(entries).items():
        add(label, of, group, "ranker")
    return found


def write_plots(entries: list[Entry], title: str, folder: Path, say: Callable[[str], None] = print) -> list[Path]:
    """Draw recall.png and rank_shifts.png into a folder and return what was drawn."""
    made = [folder / "recall.png"]
    ceilings = {entry["direction"]: 100 * entry["ceiling"] for entry in entries}
    plot_recall(frames(entries), ceilings, title, made[0])
    shifts = rank_shifts(entries)
    if shifts:
        made.append(folder / "rank_shifts.png")
        plot_shifts(shifts, title, made[1])
    else:
        say("No run has its queries' figures (test.parquet): rank_shifts.png is left out.")
    return made
