"""Finished runs side by side: CLIP and CSLS first, then each scorer; of several seeds the mean and standard deviation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    "candidates": "depth of CLIP's list",
    "gallery": "gallery",
    "queries": "number of queries",
    "first_stage": "first stage",
}


@dataclass(frozen=True)
class Run:
    """A finished run: what errors call it, its test report, and what must agree for two to stand in one table."""

    name: str
    label: str
    settings: dict[str, Any]
    on: str
    report: dict[str, Any]
    per_query: Path

    def same_training(self, other: Run) -> bool:
        """Say whether two runs differ in nothing, the seed included, but perhaps the device."""
        return self.report["direction"] == other.report["direction"] and not _apart(self, other, "device")


def _apart(one: Run, other: Run, *but: str) -> list[str]:
    keys = dict.fromkeys([*one.settings, *other.settings])
    return [key for key in keys if key not in but and one.settings.get(key) != other.settings.get(key)]


def from_folders(folders: list[Path]) -> list[Run]:
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


def from_experiment(tracking: Path, experiment: str, say: Callable[[str], None] = print) -> list[Run]:
    """Read the finished runs of an MLflow experiment; of several trainings that are the same, the newest.

    Runs on data that has been replaced since, and runs whose artifacts are gone, are left out, and `say` is told.

    Raises
    ------
    UserError
        If there is no such experiment, or it has no run with test metrics.
    """
    found: list[Run] = []
    for entry in read_runs(tracking, experiment):  # newest first
        if "test/R1" not in entry["metrics"]:
            continue
        if not (entry["artifacts"] / "config.json").is_file():
            say(f"{entry['name']}: {entry['artifacts']} holds no config.json; the run is left out.")
            continue
        run = _read(entry["artifacts"], f"{entry['name']} ({entry['run_id'][:8]})")
        if not any(run.same_training(newer) and run.on == newer.on for newer in found):
            found.append(run)
    if not found:
        raise UserError(f"--experiment {experiment!r}: no finished run has test metrics yet.")
    current = [run for run in found if run.on == found[0].on]
    if len(current) < len(found):
        say(f"{len(found) - len(current)} runs on earlier data of the same name are left out.")
    return current


def _read(folder: Path, name: str) -> Run:
    facts = read_facts(folder)
    try:
        report = facts["test"]
        if not report:
            raise UserError(f"{folder}: has no test report, its data has no test split. Leave it out.")
        # What a run of an earlier version doesn't mention was at its default.
        settings = parse(facts["settings"], str(folder / "config.json"))
        known = {**settings.model_dump(mode="json"), "lists_given": facts.get("lists_given")}
        check_direction(report["direction"])
        report = {"first_stage": CLIP, **report, "rows": rows_in(report)}
        assert all(report[row][metric] is not None for row in report["rows"] for metric in SHOWN)
        return Run(name, row_name(settings), known, facts["fingerprint"], report, folder / "test.parquet")
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / 'config.json'}: is no finished run's ({error!r}). Train again.") from error


def check_comparable(runs: list[Run]) -> None:
    """Check that runs may stand in one table, those of one direction beside each other.

    Raises
    ------
    UserError
        If two runs were evaluated on different data, splits, galleries or depths, if CLIP's figures differ although
        all that is the same, or if a training is named twice. It names both.
    """
    for place, run in enumerate(runs):
        first = runs[0]
        if run.on != first.on:
            raise UserError(
                f"{first.name} and {run.name} were evaluated on different data (fingerprints {first.on[:12]} and "
                f"{run.on[:12]}); their figures can't be compared. Compare runs of one embedding set."
            )
        first = next(other for other in runs if other.report["direction"] == run.report["direction"])
        for key, what in _STAGE.items():
            if first.report[key] != run.report[key]:
                raise UserError(
                    f"{first.name} and {run.name} were evaluated with a different {what}, {first.report[key]} and "
                    f"{run.report[key]}; their figures can't be compared. Leave one out, or train it again."
                )
        ...
