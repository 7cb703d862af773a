"""MLflow runs in a SQLite store. A tracking failure is reported once and never stops a training."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rank_xmodal.errors import UserError

_LONGEST = 500  # characters of a parameter; a longer one aborts an MLflow run, and the settings artifact holds it whole


def store_uri(folder: Path) -> str:
    """Return the URI of the SQLite store inside `folder`."""
    return f"sqlite:///{(folder / 'mlflow.db').resolve()}"


def metric_key(name: str) -> str:
    """Return a metric's name as MLflow allows it: "R@1" -> "R1"."""
    return name.replace("@", "")


class Tracker:
    """One MLflow run: opened by `start`, fed by `epoch`, closed by `finish`.

    Parameters
    ----------
    folder : Path or None
        Where the store and the artifacts live; None tracks nothing.
    say : callable
        Told, once, why tracking failed.
    """

    def __init__(self, folder: Path | None, say: Callable[[str], None] = print) -> None:
        self.folder, self.say = folder, say
        self.run_id: str | None = None
        self._client: Any = None

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever MLflow, SQLite or the disk throws: the training matters more
            self.say(f"MLflow tracking stopped ({type(error).__name__}: {error}); the training goes on without it.")
            self._client = None

    def start(
        self,
        experiment: str,
        name: str,
        params: dict[str, Any],
        tags: dict[str, str],
        dataset: tuple[str, str] | None = None,
        run_id: str | None = None,
        parent: str | None = None,
    ) -> None:
        """Open a run, or go on with `run_id` where the store still has it.

        `dataset` is a data set's name and digest, shown in the column Dataset; `parent` the run that this one is
        nested under.
        """
        if self.folder is None:
            return
        with self._guarded():
            # MLflow's own chatter: migrations, a git warning, anonymous usage reports.
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
            from mlflow import MlflowClient
            from mlflow.entities import Dataset, DatasetInput, Param, RunTag

            for noisy in ("mlflow", "alembic"):
                logging.getLogger(noisy).setLevel(logging.WARNING)

            self.folder.mkdir(parents=True, exist_ok=True)
            client = MlflowClient(tracking_uri=store_uri(self.folder))
            found = client.get_experiment_by_name(experiment)
            artifacts = (self.folder / "artifacts").resolve().as_uri()
            # The kind makes the UI open on the table of runs and metrics.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            number = found.experiment_id if found else client.create_experiment(experiment, artifacts, kind)
            if run_id is not None:
                with contextlib.suppress(Exception):  # a store that was deleted meanwhile: open a new run
                    client.update_run(run_id, status="RUNNING")
                    self.run_id, self._client = run_id, client
                    return
            run = client.create_run(number, run_name=name)
            if parent is not None:
                tags = {**tags, "mlflow.parentRunId": parent}
            flat = [Param(key, str(value)[:_LONGEST]) for key, value in params.items()]
            client.log_batch(run.info.run_id, params=flat, tags=[RunTag(k, str(v)) for k, v in tags.items()])
            if dataset is not None:
                entity = Dataset(dataset[0], dataset[1][:36], "local", json.dumps({"fingerprint": dataset[1]}))
                client.log_inputs(run.info.run_id, [DatasetInput(entity, [])])
            self.run_id, self._client = run.info.run_id, client

    def epoch(self, figures: dict[str, float]) -> None:
        """Log one epoch: loss, lr and seconds under train/, what begins with val_ under val/."""
        if self._client is None:
            return
        step = int(figures["epoch"])
        named = {}
        for key, value in figures.items():
            if key.startswith("val_"):
                named[f"val/{metric_key(key[4:])}"] = value
            elif key != "epoch":
                named[f"train/{key}"] = value
        self._metrics(named, step)

    def _metrics(self, named: dict[str, float], step: int) -> None:
        import time

        with self._guarded():
            from mlflow.entities import Metric

            now = int(time.time() * 1000)
            self._client.log_batch(self.run_id, metrics=[Metric(k, float(v), now, step) for k, v in named.items()])

    def finish(
        self,
        metrics: dict[str, float] | None = None,
        artifacts: list[Path] | None = None,
        status: str = "FINISHED",
    ) -> None:
        """Log final metrics and files, and close the run as FINISHED, FAILED or KILLED."""
        if self._client is None:
            return
        if metrics:
            self._metrics(metrics, step=0)
        for path in artifacts or []:
            if self._client is not None:
                with self._guarded():
                    self._client.log_artifact(self.run_id, str(path))
        if self._client is not None:
            with self._guarded():
                self._client.set_terminated(self.run_id, status)


def read_runs(folder: Path, experiment: str) -> list[dict[str, Any]]:
    """Return an experiment's finished runs: dicts of run_id, name, tags, params, metrics, artifacts (its folder).

    Raises
    ------
    UserError
        If the store or the experiment doesn't exist.
    """
    if not (folder / "mlflow.db").is_file():
        raise UserError(
            f"{folder}: holds no MLflow store (mlflow.db). Train something first, or name the right folder."
        )
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store_uri(folder))
    found = client.get_experiment_by_name(experiment)
    if found is None:
        known = ", ".join(repr(e.name) for e in client.search_experiments() if e.name != "Default") or "none"
        raise UserError(f"--experiment {experiment!r}: no such experiment in {folder}; there is {known}.")
    runs: list[Any] = []
    token: str | None = None
    while token != "":
        page = client.search_runs([found.experiment_id], "attributes.status = 'FINISHED'", page_token=token)
        runs += list(page)
        token = page.token or ""
    return [
        {
            "run_id": run.info.run_id,
            "name": run.info.run_name,
            "artifacts": folder / "artifacts" / run.info.run_id / "artifacts",
            "tags": dict(run.data.tags),
            "params": dict(run.data.params),
            "metrics": dict(run.data.metrics),
        }
        for run in runs
    ]
