"""The MLflow store: a SQLite file that stands there whole or not at all."""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from rank_xmodal.errors import UserError
from rank_xmodal.files import locked, replacing


def store_uri(folder: Path) -> str:
    """Return the URI of the SQLite store inside `folder`."""
    return f"sqlite:///{(folder / 'mlflow.db').resolve()}"


def artifacts_uri(folder: Path) -> str:
    """Return where the store inside `folder` keeps files."""
    return (folder / "artifacts").resolve().as_uri()


def open_store(folder: Path, *, make: bool = False) -> Any:
    """Return an MlflowClient on the store inside `folder`; `make` one where there is none.

    MLflow makes its tables in dozens of migrations over seconds, and what is interrupted in between can neither be
    used nor mended. So they are made in a file of another name, by one process at a time.

    Raises
    ------
    UserError
        If there is none and none is to be made, it is not whole, or of another version of MLflow.
    """
    client_of = _mlflow()
    target = folder / "mlflow.db"
    if make and not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, "making the MLflow store", wait=True):
            if not target.exists():
                _make(folder)
    if not target.exists():
        raise UserError(
            f"{folder}: holds no MLflow store (mlflow.db). Train something first, or name the right folder."
        )
    try:
        _glance(target, make)  # what can't be opened at all MLflow tries for minutes
        client = client_of(tracking_uri=store_uri(folder))
        client.search_experiments(max_results=1)
    except UserError:
        raise
    except Exception as error:  # MLflow's own, SQLAlchemy's, Alembic's, SQLite's
        why = " ".join(str(error).split())[:300]
        raise UserError(
            f"{target}: not a whole MLflow store of this version ({why}). If another version of MLflow made it, run "
            f"`mlflow db upgrade {store_uri(folder)}`. If not, its making was interrupted or it is damaged: move it "
            "away; the runs' own folders hold all that they need, and a new store is made."
        ) from error
    return client


def _mlflow() -> Any:
    """Import MLflow without its chatter: migrations, a git warning, anonymous usage reports."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from mlflow import MlflowClient

    for noisy in ("mlflow", "alembic", "sqlalchemy"):  # after the import, which sets them
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # what they would log is thrown, too, and told in a line
    return MlflowClient


def _glance(target: Path, write: bool) -> None:
    """Check that it is a SQLite file with tables that were migrated to some version, and may be written to if need be.

    Raises
    ------
    UserError
        If it may not be read or written.
    Exception
        If it is something else.
    """
    try:
        with closing(sqlite3.connect(f"{target.resolve().as_uri()}?mode=rw", uri=True, timeout=30)) as base:
            if not base.execute("select version_num from alembic_version").fetchall():
                raise ValueError("its tables are of no version")
            if write:
                base.execute("begin immediate")
                base.rollback()
    except sqlite3.OperationalError as error:
        if target.is_file() and ("readonly" in str(error) or "unable to open" in str(error)):
            raise UserError(
                f"{target}: may not be {'written' if write else 'read'} ({error}). Ask its owner for permission, or "
                "name another --mlruns."
            ) from error
        raise


def _make(folder: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with replacing(folder / "mlflow.db") as part:
        made = SqlAlchemyStore(f"sqlite:///{part}", artifacts_uri(folder))  # type: ignore[no-untyped-call]
        made.engine.dispose()  # closes the file: SQLite has written all of it then
