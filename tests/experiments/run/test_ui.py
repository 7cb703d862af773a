"""The page that `rank-xmodal ui` opens on: which columns it shows, and how the server is started."""

import json
import os
import socket

import pytest

from experiments.run import ui
from experiments.run.store import open_store
from experiments.run.tracking import Tracker
from rank_xmodal.errors import UserError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Return a store with an experiment of a training, one of a study, and one of a run without figures."""
    folder = tmp_path_factory.mktemp("mlruns")
    for experiment, figures in (
        ("set", {"test/R1": 0.5, "test/R10": 0.7, "test_clip/R1": 0.4, "gain/R1": 0.1}),
        ("study", {"R1": 50.0, "MRR": 55.0}),
        ("none", {}),
    ):
        tracker = Tracker(folder)
        tracker.start(experiment, "one", {"scorer": "csls", "lr": 0.1}, {"direction": "t2i"})
        tracker.finish(figures)
    return folder


def view_of(store, name):
    tag = open_store(store).get_experiment_by_name(name).tags["mlflow.sharedViewState.rank_xmodal"]
    return json.loads(json.loads(tag)["state"])


def test_the_view_has_the_figures_that_there_are_best_first(store):
    found = ui.addresses(store, 5_000)
    assert found.keys() == {"set", "study"}
    number = open_store(store).get_experiment_by_name("set").experiment_id
    assert found["set"].startswith(f"http://127.0.0.1:5000/#/experiments/{number}/runs?")
    assert "viewStateShareKey=rank_xmodal" in found["set"]
    state = view_of(store, "set")
    assert state["selectedColumns"] == [
        "metrics.`test/R1`", "metrics.`gain/R1`", "metrics.`test/R10`", "tags.`direction`", "params.`scorer`",
    ]  # fmt: skip
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`test/R1`", False)
    assert view_of(store, "study")["selectedColumns"][:2] == ["metrics.`R1`", "metrics.`MRR`"]


def test_the_view_is_saved_anew_only_where_it_changed(store, monkeypatch):
    ui.addresses(store, 5_000)
    client, calls = open_store(store), []
    monkeypatch.setattr(type(client), "set_experiment_tag", lambda self, *arguments: calls.append(arguments))
    ui.addresses(store, 5_000)
    assert calls == []
    tracker = Tracker(store)
    tracker.start("set", "two", {}, {})
    tracker.finish({"test/MRR": 0.6})
    ui.addresses(store, 5_000)
    assert len(calls) == 1


def test_the_server_listens_on_this_machine_alone_and_runs_no_jobs(store, monkeypatch):
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments))
    started, said = [], []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ui.serve(store, port, said.append)
    ((_, command, environment),) = started
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--workers") + 1] == "1"
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert any(line.startswith(f"set: http://127.0.0.1:{port}/#/experiments/") for line in said)


def test_a_port_that_is_taken_and_a_folder_without_a_store_are_refused(store, tmp_path, run, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match=r"--port \d+: can't be listened on"):
            ui.serve(store, taken.getsockname()[1])
    run("ui", "--mlruns", tmp_path, code=2)
    assert "holds no MLflow store" in capsys.readouterr().err
