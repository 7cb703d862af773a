"""Finished runs side by side: CLIP and CSLS first, then each scorer; of several seeds their mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from experiments.results.names import row_name
from experiments.results.result import GROUP, metrics_in, reference, row_label, rows_in
from experiments.run.tracking import read_runs
from experiments.study.plan import UNTRAINED
from experiments.study.table import TESTED, Outcome, Table, tabulate
from rank_xmodal.data.embedding_set import check_direction
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.judging import MEAN_RANK
from rank_xmodal.files import read_parquet, read_table
from rank_xmodal.retrieval.gallery import CLIP
from rank_xmodal.scorers import parse
from rank_xmodal.scorers.chance import Chance
from rank_xmodal.scorers.facts import read_facts

_STAGE = ("split", "first_stage", "candidates", "gallery", "queries")
_CALLED = {"candidates": "depth of the lists", "queries": "number of queries", "first_stage": "first stage"}
_LABELS = "labels_fingerprint"


def from_folders(folders: list[Path]) -> list[Outcome]:
    """Read the test reports of runs' folders; a UserError names one that holds no finished run."""
    return [_read(folder, str(folder)) for folder in folders]


def from_experiment(tracking: Path, experiment: str, say: Callable[[str], None] = print) -> list[Outcome]:
    """Read the finished runs of an MLflow experiment; of several trainings that are the same, the newest.

    Runs on data that has been replaced since, and runs whose artifacts are gone, are left out, and `say` is told.
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
    """Read a run, whether in its own folder or among its artifacts in MLflow."""
    if not (folder / "config.json").is_file():
        if (folder / "trials").is_dir():
            raise UserError(f"{folder}: is a study's, with a table of its own (table.md). Leave it out.")
        raise UserError(f"{folder}: holds no finished run (no config.json). Train it first.")
    facts, file = read_facts(folder), folder / "test.parquet"
    try:
        if not facts["test"]:
            raise UserError(f"{folder}: has no test report, its data has no test split. Leave it out.")
        report = {"first_stage": CLIP, **facts["test"], "rows": rows_in(facts["test"])}
        metrics = metrics_in(report)
        for row in report["rows"]:
            report[row] = {metric: report[row][metric] for metric in metrics}
        # What a run of an earlier version doesn't mention was at its default.
        settings = parse(facts["settings"], str(folder / "config.json"))
        known = {**settings.model_dump(mode="json"), "lists_given": facts.get("lists_given")}
        columns = {f"{row}/{metric}": "float64" for row in report["rows"] for metric in (TESTED, MEAN_RANK)}
        queries = None
        if file.is_file():
            # Runs of earlier versions don't say which queries belong together.
            known_groups = {GROUP: "int64"} if GROUP in read_parquet(file).column_names else {}
            queries = read_table(file, {"query": "int64", **known_groups, **columns}, "test results")
        direction = check_direction(report["direction"])
        # A run of CLIP's or CSLS's own is a row beside theirs: its query bank may be another.
        label = row_name(settings) + (" (run)" if row_name(settings) in UNTRAINED else "")
        return Outcome(label, direction, "gallery", report, queries, known, facts["fingerprint"], name)
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / 'config.json'}: is no finished run's ({error!r}). Train again.") from error


def _apart(one: Outcome, other: Outcome, *but: str) -> list[str]:
    """Return the settings in which two runs differ, leaving out some."""
    keys = dict.fromkeys([*one.settings, *other.settings])
    return [key for key in keys if key not in but and one.settings.get(key) != other.settings.get(key)]


def _same_training(one: Outcome, other: Outcome) -> bool:
    return one.direction == other.direction and not _apart(one, other, "device")


def _differently(one: Outcome, other: Outcome) -> Iterator[str]:
    """Yield how two runs were evaluated differently."""
    if one.on != other.on:
        yield f"on different data (fingerprints {one.on[:12]} and {other.on[:12]})"
    if one.direction != other.direction:
        return
    first = reference(one.report)
    # Without a common space each finds its own candidates, and they are compared as what they find.
    own = first == reference(other.report) == Chance.name
    for key in _STAGE:
        if one.report[key] != other.report[key] and not (own and key == "first_stage"):
            yield f"with a different {_CALLED.get(key, key)}, {one.report[key]} and {other.report[key]}"
    if len({run.report[_LABELS] for run in (one, other) if _LABELS in run.report}) > 1:
        yield "with different classes; `rank-xmodal evaluate` judges each by those of today"
    if first == reference(other.report) and not own and not one.agrees(other, first):
        values = (f"{run.report[first][TESTED]:.6f}" for run in (one, other))
        yield f"by different versions, with different figures of {row_label(first)} ({TESTED} {' and '.join(values)})"
    queries = [run.queries["query"] for run in (one, other) if run.queries is not None]
    if len(queries) == 2 and not queries[0].equals(queries[1]):
        yield f"on different queries ({len(queries[0]):,} and {len(queries[1]):,})"


def as_table(runs: list[Outcome], title: str) -> Table:
    """Return the runs' table, a row for whatever differs in more than the seed.

    Raises
    ------
    UserError
        If two runs were evaluated in different ways, or a training is named twice. It names both.
    """
    for one, other in ((one, other) for place, other in enumerate(runs) for one in runs[:place]):
        both = f"{one.name} and {other.name}"
        for how in _differently(one, other):
            raise UserError(
                f"{both} were evaluated {how}; their figures can't be compared. Leave one out, or train again."
            )
        if _same_training(one, other):
            why = "counted twice they would narrow the spread"
            raise UserError(f"{both} are the same training with the same seed; {why}. Leave one out.")
    named = []
    for run in sorted(runs, key=lambda run: int(run.settings["seed"])):
        peers = [other for other in runs if other.row == run.row]
        apart = dict.fromkeys(key for other in peers for key in _apart(run, other, "seed", "device"))
        # Whole values: two that are cut to the same text would be averaged as if they were seeds.
        suffix = ", ".join(f"{key}={run.settings.get(key)}" for key in apart)
        named.append(replace(run, row=f"{run.row} {suffix}".strip()))
    named.sort(key=lambda run: run.row)
    return tabulate(named, Table(title, against=UNTRAINED, gains=False))
