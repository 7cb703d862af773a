"""Settings compared over seeds or folds: ``python -m experiments.study.study experiments/ablation.yaml --data DATA``.

Each row of the YAML file is trained in both directions, with several seeds on the set's own splits and evaluated on
validation, or with --folds on each fold of several permutations, evaluated on that fold. What is finished is kept in
--out: a study that was stopped goes on. Each row and direction becomes a run in MLflow.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data_prep.mining.miner import mine
from experiments.run.lists import pool_size
from experiments.run.tracking import Tracker, metric_key
from experiments.study.splits import fold_of
from experiments.study.store import SHOWN, as_frame, keep
from rank_xmodal.data.embedding_set import DIRECTIONS, Direction, EmbeddingSet
from rank_xmodal.devices import pick_device
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.judging import evaluate
from rank_xmodal.evaluation.significance import paired_p
from rank_xmodal.files import replacing
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.retrieval.query_bank import neighbours
from rank_xmodal.scorers import settings
from rank_xmodal.scorers.settings import Settings
from rank_xmodal.training.loop import train

TESTED = "R@1"
_FIRST_STAGE = {"CLIP": "clip", "CSLS": "csls"}
_KEYS = {"against", "settings", "rows"}


@dataclass(frozen=True)
class Part:
    """What one training sees: a set, the split that it is evaluated on, its seed, and which repeat it belongs to."""

    data: EmbeddingSet
    split: str
    seed: int
    repeat: int


def read_plan(path: Path, assignments: list[str]) -> tuple[dict[str, Settings], list[str]]:
    """Read a study's YAML file: the settings of its rows, and the rows that the others are tested against.

    Parameters
    ----------
    path : Path
    assignments : list of str
        key=value for all rows; they go before the file's `settings`, a row's own go before them.

    Raises
    ------
    UserError
        If the file is no such mapping, names an unknown row or an unknown setting, or two rows share a name.
    """
    try:
        plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read ({' '.join(str(error).split())}).") from error
    if not isinstance(plan, dict) or set(plan) != _KEYS or not isinstance(plan["rows"], dict) or not plan["rows"]:
        raise UserError(f"{path}: must have exactly the keys {', '.join(sorted(_KEYS))}, rows being name: settings.")
    common = _mapping(path, "settings", plan["settings"])
    assigned = {assignment.partition("=")[0].strip().split(".")[0] for assignment in assignments}
    common = {key: value for key, value in common.items() if key not in assigned}
    rows: dict[str, Settings] = {}
    for name, own in ((str(name), own) for name, own in plan["rows"].items()):
        if name in _FIRST_STAGE:
            raise UserError(f"{path}: rows: {name!r} is always there, untrained. Give the row another name.")
        twin = next((other for other in rows if _file_name(other) == _file_name(name)), None)
        if twin is not None or not _file_name(name):
            how = f"and {twin!r} would share" if twin else "would have no name for"
            raise UserError(f"{path}: rows: {name!r} {how} its files. Rename it, with other letters or digits.")
        values = {**common, **_mapping(path, f"rows: {name}", own)}
        try:
            rows[name] = settings.read(None, assignments, values)
        except UserError as error:
            raise UserError(f"{path}: rows: {name}: {str(error).removeprefix('settings: ')}") from error
    against = plan["against"] or []
    if not isinstance(against, list):
        raise UserError(f"{path}: against: {against!r} is no list. Write [{against}].")
    for name in against:
        if name not in rows and name not in _FIRST_STAGE:
            raise UserError(f"{path}: against: {name!r} is no row. Rows are CLIP, CSLS, {', '.join(rows)}.")
    return rows, against


def _mapping(path: Path, where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value or {}, dict):
        raise UserError(f"{path}: {where}: must hold `key: value` lines, found {value!r}.")
    return value or {}


def _file_name(row: str) -> str:
    """Return what the files of a row are called: "without concat" -> "without-concat"."""
    return re.sub(r"[^\w.=+]+", "-", row).strip("-")


def parts_of(data: EmbeddingSet, *, seeds: int, folds: int | None, permutations: int) -> list[Part]:
    """Return what each row is trained on.

    Raises
    ------
    UserError
        If the set has too few images for the folds, or no validation split and no folds are asked for, or there
        would be nothing to train.
    """
    for option, count in (("--seeds", seeds), ("--permutations", permutations)):
        if count < 1:
            raise UserError(f"{option} {count}: must be 1 or more.")
    if folds is None:
        if not (data.images["split"] == "val").any():
            raise UserError(f"{data.name}: has no validation split to choose by. Give it one, or use --folds 5.")
        return [Part(data, "val", seed, seed) for seed in range(seeds)]
    if not 2 <= folds <= len(data.images) // 2:
        raise UserError(f"--folds {folds}: must be between 2 and {len(data.images) // 2}, half of the images.")
    return [
        Part(fold_of(data, fold, folds, permutation), "test", permutation * folds + fold, permutation)
        for permutation in range(permutations)
        for fold in range(folds)
    ]


def trial(part: Part, direction: Direction, plan: Settings, kept: Path) -> pd.DataFrame:
    """Train once and return every metric of every query of the part's split; what is kept as `kept` is read instead.

    Returns
    -------
    DataFrame
        query, and a column for each of clip, csls, ranker and each metric: "ranker/R@1".
    """
    plan = plan.model_copy(update={"seed": plan.seed + part.seed})
    data = part.data

    def make() -> pd.DataFrame:
        pool = pool_size(data, direction, plan)
        lists = mine(data, direction, negatives=plan.negatives, pool=pool, protocol=plan.lists, seed=plan.seed)
        stage = rank_gallery(data, direction, part.split)
        trained = train(data, lists, plan, validation=stage if part.split == "val" else None)
        near = neighbours(data.candidates(direction), trained.bank)
        _, values = evaluate(trained.model, data, stage, near, pick_device(plan.device))
        return as_frame(stage.lists.query, values)

    identity = {"settings": plan.model_dump(mode="json"), "fingerprint": data.fingerprint, "split": part.split}
    return keep(kept, identity, make)


@dataclass(frozen=True)
class Row:
    """A row's figures in one direction: by metric, one value a repeat, and R@1 of each query, meaned over repeats."""

    by_repeat: dict[str, list[float]]
    by_query: pd.Series

    @classmethod
    def gather(cls, frames: list[tuple[int, pd.DataFrame]], source: str) -> Row:
        """Gather the trials of a row, (repeat, frame) each; `source` is clip, csls or ranker."""
        repeats = sorted({repeat for repeat, _ in frames})
        whole = {r: pd.concat([frame for repeat, frame in frames if repeat == r]) for r in repeats}
        return cls(
            {name: [float(whole[r][f"{source}/{name}"].mean()) for r in repeats] for name in SHOWN},
            pd.concat(list(whole.values())).groupby("query")[f"{source}/{TESTED}"].mean(),
        )


def as_table(rows: dict[str, Row], against: list[str], title: str) -> pd.DataFrame:
    """Return a row each: mean and standard deviation over repeats in %, and gain and p-value against some rows.

    Parameters
    ----------
    rows : Row by name
    against : names of rows
    title : of the column of names
    """
    lines = []
    for name, row in rows.items():
        line: dict[str, Any] = {title: name}
        for metric in SHOWN:
            values = 100 * np.array(row.by_repeat[metric])
            line[metric] = values.mean()
            if metric == TESTED:
                line["±"] = values.std(ddof=1) if len(values) > 1 else np.nan
        for other in against:
            same = other == name
            line[f"- {other}"] = np.nan if same else line[TESTED] - 100 * np.mean(rows[other].by_repeat[TESTED])
            pair = row.by_query.align(rows[other].by_query, join="inner")
            line[f"p {other}"] = np.nan if same else paired_p(*(side.to_numpy() for side in pair))
        lines.append(line)
    return pd.DataFrame(lines)


def cells_of(table: pd.DataFrame) -> Iterator[list[str]]:
    """Yield the lines of a table as text."""
    for line in table.itertuples(index=False):
        cells = []
        for column, value in zip(table.columns, line, strict=True):
            if isinstance(value, str):
                cells.append(value)
            elif np.isnan(value):
                cells.append("")
            elif column.startswith("p "):
                cells.append("< 0.001" if value < 0.001 else f"{value:.3f}")
            else:
                cells.append(f"{value:+.2f}" if column.startswith("- ") else f"{value:.2f}")
        yield cells


def run(
    data: EmbeddingSet,
    rows: dict[str, Settings],
    against: list[str],
    parts: list[Part],
    out: Path,
    *,
    tracking: Path | None = Path("mlruns"),
    experiment: str = "study",
) -> dict[str, pd.DataFrame]:
    """Train every row on every part in both directions; return a table for each direction, in `out` as CSV too."""
    tables: dict[str, pd.DataFrame] = {}
    for direction in DIRECTIONS:
        frames: dict[str, list[tuple[int, pd.DataFrame]]] = {name: [] for name in rows}
        for place, part in enumerate(parts):
            for name, plan in rows.items():
                kept = out / "trials" / f"{direction}-{_file_name(name)}-{place}.parquet"
                frames[name].append((part.repeat, trial(part, direction, plan, kept)))
            print(f"{direction}: {place + 1} of {len(parts)} parts, {len(rows)} rows each", file=sys.stderr, flush=True)
        any_row = next(iter(frames.values()))
        gathered = {name: Row.gather(any_row, source) for name, source in _FIRST_STAGE.items()}
        gathered |= {name: Row.gather(frames[name], "ranker") for name in rows}
        table = as_table(gathered, against, direction)
        with replacing(out / f"{direction}.csv") as path:
            table.to_csv(path, index=False, float_format="%.6g")
        tables[direction] = table
        for line in table.to_dict("records"):
            if line[direction] in rows:
                figures = {str(key): value for key, value in line.items()}
                _track(tracking, experiment, data, direction, rows[line[direction]], figures, len(parts))
    return tables


def _track(
    folder: Path | None,
    experiment: str,
    data: EmbeddingSet,
    direction: str,
    plan: Settings,
    line: dict[str, Any],
    trainings: int,
) -> None:
    tracker = Tracker(folder, say=lambda text: print(text, file=sys.stderr))
    tracker.start(
        experiment,
        f"{line[direction]}, {direction}",
        {**plan.model_dump(), "direction": direction, "dataset": data.name, "trainings": trainings},
        {"row": line[direction], "direction": direction, "dataset": data.name, "loss": plan.loss},
        dataset=(data.name, data.fingerprint),
    )
    figures = {name: value for name, value in line.items() if name != direction and not np.isnan(value)}
    names = {"±": "R1_std"} | {column: column.replace("- ", "R1_gain_over_") for column in figures if "- " in column}
    tracker.finish({metric_key(names.get(k, k)).replace("p ", "p_"): v for k, v in figures.items()})


def main(arguments: list[str] | None = None) -> None:
    """Run a study and print its tables."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.study.study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("plan", type=Path, help="experiments/ablation.yaml, experiments/losses.yaml or your own")
    parser.add_argument("--data", type=Path, required=True, help="an embedding set")
    parser.add_argument("--seeds", type=int, default=5, help="on the set's own splits (default 5)")
    parser.add_argument("--folds", type=int, help="folds instead of the set's own splits")
    parser.add_argument("--permutations", type=int, default=2, help="of the folds (default 2)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of every row that lacks it")
    parser.add_argument("--out", type=Path, help="by default runs/PLAN-DATA")
    parser.add_argument("--mlruns", type=Path, default=Path("mlruns"))
    chosen = parser.parse_args(arguments)
    try:
        data = EmbeddingSet.open(chosen.data)
        rows, against = read_plan(chosen.plan, chosen.set)
        parts = parts_of(data, seeds=chosen.seeds, folds=chosen.folds, permutations=chosen.permutations)
        title = f"{chosen.plan.stem} {data.name}"
        out = chosen.out or Path("runs") / title.replace(" ", "-")
        tables = run(data, rows, against, parts, out, tracking=chosen.mlruns, experiment=title)
    except UserError as error:
        print(f"study: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("study: interrupted. Run the same command to go on.", file=sys.stderr)
        raise SystemExit(130) from None
    how = f"{chosen.seeds} seeds, validation split" if chosen.folds is None else (
        f"{chosen.folds} folds of {chosen.permutations} permutations"
    )  # fmt: skip
    console = Console(width=None if sys.stdout.isatty() else 140)
    for table in tables.values():
        shown = Table(
            title=escape(f"{title}, {how}; %"),
            caption=f"R@K is the hit rate. ±: standard deviation (n - 1) of {TESTED} over "
            f"{'seeds' if chosen.folds is None else 'permutations'}. p: {TESTED}, paired randomisation test over the "
            "queries, not corrected for many comparisons.",
        )
        for column in table.columns:
            shown.add_column(column, justify="left" if column in DIRECTIONS else "right", no_wrap=True)
        for cells in cells_of(table):
            shown.add_row(*map(escape, cells))
        console.print(shown)


if __name__ == "__main__":
    main()
