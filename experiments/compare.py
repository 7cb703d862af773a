"""Finished runs side by side: CLIP and CSLS first, then each ranker, both directions and Rsum."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from experiments.significance import paired_p
from experiments.train import METRIC_GROUPS, SHOWN
from rank_xmodal.embedding_set import DIRECTIONS
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation import MEAN_RANK
from rank_xmodal.files import read_json
from rank_xmodal.settings import Settings
from rank_xmodal.tracking import metric_key, read_runs

_SUMMED = ("R@1", "R@5", "R@10")
_TESTED = "R@1"  # the metric of the p-values
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
        settings = facts["settings"]
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


def _cell(values: list[float], name: str) -> str:
    scale = 1 if name == MEAN_RANK else 100
    text = f"{scale * mean(values):.2f}"
    return text if len(values) < 2 else f"{text} ± {scale * stdev(values):.2f}"


def _p_cell(p: float) -> str:
    if math.isnan(p):
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def rsum(row: dict[str, dict[str, list[float]]]) -> float | None:
    """Return the six mean R@K added up, in %, or None where a direction is missing."""
    if any(direction not in row for direction in DIRECTIONS):
        return None
    return 100 * sum(mean(row[direction][name]) for direction in DIRECTIONS for name in _SUMMED)


def as_tables(entries: list[Entry], title: str) -> list[Table]:
    """Return one rich table for each direction that occurs; R@K is the hit rate, in %."""
    summary = summarise(entries)
    tested = p_values(entries)
    tables = []
    for direction in DIRECTIONS:
        ceilings = {round(100 * e["ceiling"], 2) for e in entries if e["direction"] == direction}
        if not ceilings:
            continue
        table = Table(
            title=f"{title}: {_HEADINGS[direction]}",
            caption="R@K: share of queries with a relevant item in the top K, in %; "
            f"ceiling {' / '.join(map(str, sorted(ceilings)))}. "
            f"p: {_TESTED} against that row, paired randomisation test over the queries.",
        )
        table.add_column("")
        for name in (*SHOWN, "Rsum", "p CLIP", "p CSLS"):
            table.add_column(name, justify="right", no_wrap=True)
        for label, row in summary.items():
            if direction not in row:
                continue
            total = rsum(row)
            cells = [_cell(row[direction][name], name) for name in SHOWN]
            p_cells = [_p_cell(p) for p in tested.get((label, direction), (math.nan, math.nan))]
            table.add_row(label, *cells, "" if total is None else f"{total:.1f}", *p_cells)
        tables.append(table)
    return tables
