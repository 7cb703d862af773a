"""What an MLflow store says of its runs, read from SQLite itself."""

import contextlib
import sqlite3
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.faults.compare import digest

NONE = "no MLflow store"
VOLATILE_TAGS = ("mlflow.source.git.commit", "git.dirty", "mlflow.user", "training")
VOLATILE_METRICS = ("train/seconds",)


@dataclass(frozen=True)
class Store:
    """A store's version, the statuses of its runs, and the facts of the finished ones, without ids and times."""

    version: str
    statuses: Counter[str]
    finished: Counter[str]


def read(folder: Path) -> Store | str:
    """Return what the store in `folder` says, or what is wrong with it."""
    file = folder / "mlflow.db"
    if not file.is_file():
        return NONE
    with contextlib.closing(sqlite3.connect(file)) as base:
        try:
            whole = base.execute("PRAGMA integrity_check").fetchone()[0]
            if whole != "ok":
                return f"the MLflow store is broken: {whole}"
            version = base.execute("SELECT version_num FROM alembic_version").fetchone()[0]
            runs = base.execute(
                "SELECT run_uuid, e.name, r.name, r.status FROM runs r JOIN experiments e USING (experiment_id)"
            ).fetchall()
            finished = Counter(_facts(base, folder, *run) for run in runs if run[3] == "FINISHED")
        except (sqlite3.Error, TypeError) as error:
            return f"the MLflow store can't be read: {error}"
    known = {run[0] for run in runs} | {"models"}  # of all runs
    stray = [path.name for path in (folder / "artifacts").glob("*") if path.name not in known]
    if stray:
        return f"artifacts of no run: {stray[0]}"
    return Store(version, Counter(run[3] for run in runs), finished)


def _facts(base: sqlite3.Connection, folder: Path, run: str, experiment: str, name: str, status: str) -> str:
    params = base.execute("SELECT key, value FROM params WHERE run_uuid = ? ORDER BY key", (run,)).fetchall()
    tags = base.execute("SELECT key, value FROM tags WHERE run_uuid = ? ORDER BY key", (run,)).fetchall()
    tags = [(key, value) for key, value in tags if key not in VOLATILE_TAGS]
    metrics = base.execute("SELECT DISTINCT key, step, value FROM metrics WHERE run_uuid = ?", (run,)).fetchall()
    metrics = sorted(one for one in metrics if one[0] not in VOLATILE_METRICS)
    inputs = base.execute("SELECT count(*) FROM inputs WHERE destination_id = ?", (run,)).fetchone()[0]
    place = folder / "artifacts" / run / "artifacts"
    files = sorted((path.name, digest(path)) for path in place.glob("*"))
    return repr((experiment, name, params, tags, metrics, inputs, files))


def difference(found: Store | str, wanted: Store | str, exactly: bool = True) -> str | None:
    """Say how a store differs from the one that is wanted.

    Not `exactly`, a finished run may stand there twice or lack, or the store may not have come about at all.
    """
    if found == NONE and not exactly:
        return None
    if isinstance(found, str) or isinstance(wanted, str):
        return found if isinstance(found, str) else None
    if found.version != wanted.version:
        return f"the MLflow store has version {found.version}, not {wanted.version}"
    for status in ("RUNNING", "SCHEDULED"):
        if found.statuses[status]:
            return f"{found.statuses[status]} MLflow run(s) left {status} ({dict(found.statuses)})"
    if not exactly:
        return None
    if found.statuses["FINISHED"] != wanted.statuses["FINISHED"]:
        return f"{found.statuses['FINISHED']} MLflow runs FINISHED, not {wanted.statuses['FINISHED']}"
    if found.finished != wanted.finished:
        one, other = next(iter(found.finished - wanted.finished)), next(iter(wanted.finished - found.finished))
        at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        there = slice(max(0, at - 60), at + 60)
        return f"an MLflow run differs: ...{one[there]}... not ...{other[there]}..."
    return None
