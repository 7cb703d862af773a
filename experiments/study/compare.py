"""Finished runs side by side: CLIP and CSLS first, then each scorer; of several seeds the mean and standard deviation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from experiments.results.names import row_name
from experiments.results.result import rows_in
from experiments.run.tracking import read_runs
from experiments.study.plan import UNTRAINED
from experiments.study.table import TESTED, Outcome, Table, tabulate
from rank_xmodal.data.embedding_set import check_direction
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.judging import MEAN_RANK, SHOWN
from rank_xmodal.files import read_table
from rank_xmodal.retrieval.gallery import CLIP
from rank_xmodal.scorers import parse
from rank_xmodal.scorers.folder import read_facts

# What a report says of its first stage, and what it is called when two differ.
_STAGE = {
    "split": "split",
    "first_stage": "first stage",
    "candidates": "depth of CLIP's list",
    "gallery": "gallery",
    "queries": "number of queries",
}


def from_folders(folders: list[Path]) -> list[Outcome]:
    """Read the test reports of runs' folders.

    Raises
    ------
    UserError
        If a folder holds no finished run with a test report.
    """
    for folder in folders:
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder}: holds no finished run (no config.json). Train it first.")
    return [_read(folder, str(folder)) for folder in folders]


def from_experiment(tracking: Path, experiment: str, say: Callable[[str], None] = print) -> list[Outcome]:
    """Read the finished runs of an MLflow experiment; of several trainings that are the same, the newest.

    Runs on data that has been replaced since, and runs whose artifacts are gone, are left out, and `say` is told.

    Raises
    ------
    UserError
        If there is no such experiment, or it has no run with test metrics.
    """
    found: list[Outcome] = []
    for entry in read_runs(tracking, experiment):  # newest first
        if "test/R1" not in entry["metrics"]:
            continue
        if not (entry["artifacts"] / "config.json").is_file():
            say(f"{entry['name']}: {entry['artifacts']} holds no config.json; the run is left out.")
            continue
        run = _read(entry["artifacts"], f"{entry['name']} ({entry['run_id'][:8]})")
        if not any(_same_training(run, newer) and run.on == newer.on for newer in found):
            found.append(run)
    if not found:
        raise UserError(f"--experiment {experiment!r}: no finished run has test metrics yet.")
    current = [run for run in found if run.on == found[0].on]
    if len(current) < len(found):
        say(f"{len(found) - len(current)} runs on earlier data of the same name are left out.")
    return current


def _read(folder: Path, name: str) -> Outcome:
    """Read a run's config.json, whether in its own folder or among its artifacts in MLflow."""
    facts, file = read_facts(folder), folder / "test.parquet"
    try:
        report = facts["test"]
        if not report:
            raise UserError(f"{folder}: has no test report, its data has no test split. Leave it out.")
        # What a run of an earlier version doesn't mention was at its default.
        settings = parse(facts["settings"], str(folder / "config.json"))
        known = {**settings.model_dump(mode="json"), "lists_given": facts.get("lists_given")}
        report = {"first_stage": CLIP, **report, "rows": rows_in(report)}
        of_rows = {row: {metric: report[row][metric] for metric in SHOWN} for row in report["rows"]}
        columns = {"query": "int64"} | {f"{row}/{name}": "float64" for row in of_rows for name in (TESTED, MEAN_RANK)}
        queries = read_table(file, columns, "test results") if file.is_file() else None
        direction = check_direction(report["direction"])
        return Outcome(row_name(settings), direction, "gallery", report, queries, known, facts["fingerprint"], name)
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / 'config.json'}: is no finished run's ({error!r}). Train again.") from error


def _apart(one: Outcome, other: Outcome, *but: str) -> list[str]:
    """Return the settings in which two runs differ, leaving out some."""
    keys = dict.fromkeys([*one.settings, *other.settings])
    return [key for key in keys if key not in but and one.settings.get(key) != other.settings.get(key)]


def _same_training(one: Outcome, other: Outcome) -> bool:
    return one.direction == other.direction and not _apart(one, other, "device")


def check_comparable(runs: list[Outcome]) -> None:
    """Check that runs may stand in one table, those of one direction beside each other.

    Raises
    ------
    UserError
        If two runs were evaluated on different data, queries, splits, galleries or depths, if CLIP's figures differ
        although all that is the same, or if a training is named twice. It names both.
    """
    for place, run in enumerate(runs):
        first = runs[0]
        if run.on != first.on:
            raise UserError(
                f"{first.name} and {run.name} were evaluated on different data (fingerprints {first.on[:12]} and "
                f"{run.on[:12]}); their figures can't be compared. Compare runs of one embedding set."
            )
        peers = [other for other in runs[: place + 1] if other.direction == run.direction]
        first = peers[0]
        for key, what in _STAGE.items():
            if first.report[key] != run.report[key]:
                raise UserError(
                    f"{first.name} and {run.name} were evaluated with a different {what}, {first.report[key]} and "
                    f"{run.report[key]}; their figures can't be compared. Leave one out, or train it again."
                )
        if not first.agrees(run, CLIP):
            raise UserError(
                f"{first.name} and {run.name} have different figures of CLIP on the same data ({TESTED} "
                f"{first.report[CLIP][TESTED]:.6f} and {run.report[CLIP][TESTED]:.6f}): they were evaluated by "
                "different versions. Train the older one again."
            )
        for other in peers[:-1]:
            if _same_training(run, other):
                raise UserError(
                    f"{other.name} and {run.name} are the same training with the same seed; counted twice they would "
                    "narrow the spread. Leave one out."
                )
            if run.queries is not None and other.queries is not None:
                if not run.queries["query"].equals(other.queries["query"]):
                    raise UserError(
                        f"{other.name} and {run.name}: hold different queries ({len(other.queries):,} and "
                        f"{len(run.queries):,}), which can't be paired. Train the older run again."
                    )


def as_table(runs: list[Outcome], title: str) -> tuple[Table, list[Outcome]]:
    """Return the runs' table and the outcomes that it is made from, one row for what differs in nothing but the seed.

    Raises
    ------
    UserError
        As `check_comparable`.
    """
    check_comparable(runs)
    named = []
    for run in sorted(runs, key=lambda run: run.settings["seed"]):
        # Whole values: two that are cut to the same text would be averaged as if they were seeds.
        peers = [other for other in runs if other.row == run.row]
        apart = dict.fromkeys(key for other in peers for key in _apart(run, other, "seed", "device"))
        suffix = ", ".join(f"{key}={run.settings.get(key)}" for key in apart)
        named.append(replace(run, row=f"{run.row} {suffix}".strip()))
    named.sort(key=lambda run: run.row)
    return tabulate(named, Table(title, against=UNTRAINED, gains=False)), named
