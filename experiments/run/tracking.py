"""MLflow runs in a SQLite store. A tracking failure is reported once and never stops a training."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from experiments.results.text import visible
from experiments.run.store import artifacts_uri, open_store
from experiments.run.versions import COMMIT, code_tags
from rank_xmodal.errors import UserError

KIND = "kind"
"""The tag of a run that is no training: "reference", what trainings are compared with."""
_TRAINING = "training"  # the tag by which a training that was interrupted finds its run again
_NOTE = "mlflow.note.content"  # MLflow's own: the description that a run's page begins with
_LONGEST = 500  # characters of a parameter; a longer one aborts an MLflow run, and the settings artifact holds it whole


def metric_key(name: str) -> str:
    """Return a metric's name as MLflow allows it: "R@1" -> "R1", "class MAP" -> "class_MAP"."""
    return name.replace("@", "").replace(" ", "_")


def _clean(name: object) -> str:
    return visible(str(name), keep="")


class Tracker:
    """One MLflow run: opened by `start`, fed by `epoch`, closed by `finish`.

    Parameters
    ----------
    folder : Path or None
        Where the store and the artifacts live; None tracks nothing.
    say : callable
        Told, once, why tracking failed.

    Attributes
    ----------
    run_id : str or None
    failed : str
        Why the run isn't tracked to its end; "" where it is, or was not to be.
    """

    def __init__(self, folder: Path | None, say: Callable[[str], None] = print) -> None:
        self.folder, self.say = folder, say
        self.run_id: str | None = None
        self.failed = ""
        self._client: Any = None
        self._left: Any = None  # the client that failed
        self._before = ""  # the status of a run that was taken up again,
        self._known: dict[str, float] = {}  # and its metrics
        self._logged: set[int] = set()  # epochs that the run has for sure

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever MLflow, SQLite or the disk throws: the training matters more
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            self.failed = f"{kind}{(str(error).splitlines() or [''])[0][:300]}"
            self.say(f"MLflow tracking stopped ({self.failed}); the training goes on without it.")
            self._left, self._client = self._client or self._left, None

    def start(
        self,
        experiment: str,
        name: str,
        params: dict[str, Any],
        tags: dict[str, str],
        dataset: tuple[str, str] | None = None,
        training: str | None = None,
        parent: str | None = None,
    ) -> None:
        """Open a run, or take up the one of this `training` where the store has it.

        `dataset` is a data set's name and digest, shown in the column Dataset; `training` is what no other training is
        called; `parent` the run that this one is nested under.
        """
        if self.folder is None:
            return
        with self._guarded():
            client = open_store(self.folder, make=True)
            from mlflow.entities import Dataset, DatasetInput, Param

            experiment, name = _clean(experiment), _clean(name)
            number = _experiment(client, experiment, artifacts_uri(self.folder))
            run = None
            if training is not None:
                tags = {**tags, _TRAINING: training}
                run = next(iter(client.search_runs([number], f"tags.{_TRAINING} = '{training}'")), None)
            if parent is not None:
                tags = {**tags, "mlflow.parentRunId": parent}
            tags = {**{key: value for key, value in tags.items() if key != COMMIT}, **code_tags()}
            if run is None:
                run = client.create_run(number, tags={k: _clean(v) for k, v in tags.items()}, run_name=name)
                self.run_id, self._client = run.info.run_id, client
            else:
                client.update_run(run.info.run_id, status="RUNNING")
            self._go_on(client, run)
            # Said again to a run that was taken up: its training may have been killed right here.
            flat = [Param(key, _clean(value)[:_LONGEST]) for key, value in params.items()]
            client.log_batch(run.info.run_id, params=flat)
            if dataset is not None and not (run.inputs and run.inputs.dataset_inputs):
                entity = Dataset(_clean(dataset[0]), dataset[1][:36], "local", json.dumps({"fingerprint": dataset[1]}))
                client.log_inputs(run.info.run_id, [DatasetInput(entity, [])])

    def take_up(self, run_id: str) -> bool:
        """Go on with a run that was left RUNNING; say whether it was."""
        if self.folder is None or not (self.folder / "mlflow.db").is_file():
            return False
        with contextlib.suppress(Exception):  # such as a run that was deleted
            client = open_store(self.folder)
            run = client.get_run(run_id)
            if run.info.status == "RUNNING":
                self._go_on(client, run)
        return self.run_id is not None

    def _go_on(self, client: Any, run: Any) -> None:
        """Take up a run, as the store had it before."""
        self.run_id, self._client = run.info.run_id, client
        self._before, self._known = run.info.status, dict(run.data.metrics)

    def epoch(self, figures: dict[str, float]) -> None:
        """Log one epoch: loss, lr and seconds under train/, what begins with val_ under val/."""
        self._log((key, value, int(figures["epoch"])) for key, value in _named(figures).items())
        if self._client is not None:
            self._logged.add(int(figures["epoch"]))

    def _log(self, figures: Iterable[tuple[str, float, int]]) -> None:
        if self._client is None:
            return
        with self._guarded():
            from mlflow.entities import Metric

            now = int(time.time() * 1000)
            metrics = [Metric(key, float(value), now, step) for key, value, step in figures]
            for start in range(0, len(metrics), 1_000):  # as many as MLflow takes at a time
                self._client.log_batch(self.run_id, metrics=metrics[start : start + 1_000])

    def finish(
        self,
        metrics: dict[str, float] | None = None,
        artifacts: list[Path] | None = None,
        status: str = "FINISHED",
        history: list[dict[str, float]] | None = None,
        note: str = "",
        more: Callable[[Any, str], None] | None = None,
    ) -> None:
        """Log final metrics and files, and close the run as FINISHED, FAILED or KILLED.

        `history` are all epochs of a training, some of which the run may lack: those are logged now. Where tracking
        failed on the way, all is tried once more. `note` is the run's description, Markdown; `more` logs what else
        there is, by the client and the run's id.
        """
        if self.run_id is not None and self._client is None and self._left is not None:
            self._client, self.failed = self._left, ""
        if self._client is None:
            return
        if status != "FINISHED" and self._before == "FINISHED":
            status = "FINISHED"  # a run that was whole isn't less so because its repeat was stopped
        left = [figures for figures in history or [] if int(figures["epoch"]) not in self._logged]
        if left:
            with self._guarded():
                self._log(self._lacking(left))
        self._log((key, value, 0) for key, value in (metrics or {}).items() if self._known.get(key) != value)
        if self._before and self.folder is not None:  # what MLflow left half copied when it was killed
            for half in (self.folder / "artifacts" / str(self.run_id) / "artifacts").glob(".artifact.uploading.*"):
                half.unlink(missing_ok=True)
        for path in artifacts or []:
            if self._client is not None:
                with self._guarded():
                    self._client.log_artifact(self.run_id, str(path))
        if note and self._client is not None:
            with self._guarded():
                self._client.set_tag(self.run_id, _NOTE, note)
        if more is not None and self._client is not None:
            with self._guarded():
                more(self._client, str(self.run_id))
        closing = self._client or self._left
        with contextlib.suppress(Exception) if self._client is None else self._guarded():
            closing.set_terminated(self.run_id, status)

    def _lacking(self, history: list[dict[str, float]]) -> list[tuple[str, float, int]]:
        keys = {key for figures in history for key in _named(figures)}
        steps = {key: {m.step for m in self._client.get_metric_history(self.run_id, key)} for key in keys}
        named = ((key, value, int(figures["epoch"])) for figures in history for key, value in _named(figures).items())
        return [(key, value, step) for key, value, step in named if step not in steps[key]]


def _named(figures: dict[str, float]) -> dict[str, float]:
    """Return an epoch's figures as MLflow names them."""
    return {
        f"val/{metric_key(key[4:])}" if key.startswith("val_") else f"train/{key}": value
        for key, value in figures.items()
        if key != "epoch"
    }


def _experiment(client: Any, name: str, artifacts: str) -> str:
    """Return the id of an experiment, made now if need be."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        # The kind makes the UI open on the table of runs and metrics.
        with contextlib.suppress(MlflowException):  # another process has made it meanwhile
            return str(client.create_experiment(name, artifacts, {"mlflow.experimentKind": "custom_model_development"}))
        found = client.get_experiment_by_name(name)
    if found.lifecycle_stage != "active":
        raise UserError(
            f"the MLflow experiment {name!r} was deleted. Bring it back with `mlflow experiments restore "
            f"--experiment-id {found.experiment_id}`, or call the set otherwise."
        )
    return str(found.experiment_id)


def give_up(dropped: list[dict[str, str]]) -> None:
    """Close MLflow runs that nobody will go on with, as KILLED: each by its store and, if known, its run_id.

    Else experiment and name find it, the value of its tag.
    """
    for one in dropped:
        folder = Path(one["store"])
        if not (folder / "mlflow.db").is_file():
            continue
        with contextlib.suppress(Exception):  # it is no work of the training that begins now
            client = open_store(folder)
            if "run_id" in one:
                runs = [client.get_run(one["run_id"])]
            else:
                found = client.get_experiment_by_name(_clean(one["experiment"]))
                runs = client.search_runs([found.experiment_id], f"tags.{_TRAINING} = '{one['name']}'")
            for run in runs:
                if run.info.status == "RUNNING":
                    client.set_terminated(run.info.run_id, "KILLED")


def has_finished(folder: Path, experiment: str, training: str) -> bool:
    """Return whether the store has a finished run of this `training`, as `Tracker.start` was told."""
    client = open_store(folder)
    found = client.get_experiment_by_name(_clean(experiment))
    asked = f"tags.{_TRAINING} = '{training}' and attributes.status = 'FINISHED'"
    return found is not None and bool(client.search_runs([found.experiment_id], asked, max_results=1))


def read_runs(folder: Path, experiment: str) -> list[dict[str, Any]]:
    """Return an experiment's finished runs: dicts of run_id, name, tags, params, metrics, artifacts (its folder).

    Those that are no trainings are left out.

    Raises
    ------
    UserError
        If the store or the experiment doesn't exist, or the store is not whole.
    """
    client = open_store(folder)
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
        if KIND not in run.data.tags
    ]
