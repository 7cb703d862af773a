"""MLflow's pages of a store: where they show the figures, and the server."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.run.store import artifacts_uri, open_store, store_uri
from experiments.run.tracking import metric_key
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.class_gallery import CLASS_MAP

HOST = "127.0.0.1"
VIEW = "rank_xmodal"
"""The key of the view that we save in an experiment; its users' own have others."""
_SAVED = "mlflow.sharedViewState."  # before the key, the name of the experiment's tag that holds a view
_FIGURES = ("R@1", "R@5", "R@10", "MRR", "NDCG@10", CLASS_MAP)
_GROUPS = ("test/", "val/", "")  # trainings, grids, studies
_BESIDE = ("gain/R1",)
_TAGS = ("direction",)
_SETTINGS = ("scorer", "loss", "features", "seed")


def save_view(client: Any, experiment: Any) -> bool:
    """Save what a page of an experiment's runs shows: figures as columns, best first. False where none has figures.

    MLflow's address of a page can't name columns. It can name a view, though, which its button Save view keeps in a tag
    of the experiment.
    """
    runs = client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'", max_results=200)
    known = {key for run in runs for key in run.data.metrics}
    group = next((group for group in _GROUPS if f"{group}R1" in known), None)
    if group is None:
        return False
    shown = [key for key in (f"{group}{metric_key(name)}" for name in _FIGURES) if key in known]
    shown[1:1] = [key for key in _BESIDE if key in known]
    params = {key for run in runs for key in run.data.params}
    columns = [f"metrics.`{key}`" for key in shown]
    columns += [f"tags.`{key}`" for key in _TAGS] + [f"params.`{key}`" for key in _SETTINGS if key in params]
    state = json.dumps(
        {"orderByKey": columns[0], "orderByAsc": False, "selectedColumns": columns, "columnOrder": columns,
         "columnWidths": dict.fromkeys(columns, 100)}
    )  # fmt: skip
    tag, now = _SAVED + VIEW, int(time.time() * 1000)
    if state not in json.loads(experiment.tags.get(tag, "{}")).values():
        view = {"name": "Figures", "createdAt": now, "updatedAt": now, "state": state}
        client.set_experiment_tag(experiment.experiment_id, tag, json.dumps(view))
    return True


def address(port: int, experiment_id: str) -> str:
    """Return where a browser finds an experiment's runs with their figures."""
    return f"http://{HOST}:{port}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def addresses(folder: Path, port: int) -> dict[str, str]:
    """Return where the runs of each experiment are shown, by its name; that of the last change comes first.

    Raises
    ------
    UserError
        If `folder` holds no store, or none that is whole.
    """
    client = open_store(folder)
    every = client.search_experiments(order_by=["last_update_time DESC"])
    return {one.name: address(port, one.experiment_id) for one in every if save_view(client, one)}


def serve(folder: Path, port: int, say: Callable[[str], None] = print) -> None:
    """Become MLflow's server of the store in `folder`, on this machine alone; `say` is told where to look.

    Raises
    ------
    UserError
        If `folder` holds no whole store, or the port is taken.
    """
    found = addresses(folder, port)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(f"--port {port}: can't be listened on ({error.strerror}). Name another.") from error
    for name, where in found.items() or {"no run has figures yet": f"http://{HOST}:{port}"}.items():
        say(f"{name}: {where}")
    say("Ctrl-C ends it.")
    # Its job runner, for judges of language models, would be nine more processes and more than a gigabyte.
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store_uri(folder)]
    command += ["--default-artifact-root", artifacts_uri(folder), "--host", HOST, "--port", str(port), "--workers", "1"]
    sys.stdout.flush()
    os.execve(sys.executable, command, {**os.environ, **quiet})
