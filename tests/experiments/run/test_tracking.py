"""Runs in a store that one page of MLflow's answer doesn't hold."""

from mlflow import MlflowClient

from experiments.run.tracking import Tracker, read_runs


def test_all_pages_of_runs_are_read(tmp_path, monkeypatch):
    for name in "abc":
        tracker = Tracker(tmp_path, print)
        tracker.start(experiment="e", name=name, params={}, tags={})
        tracker.finish({"R1": 0.5})
    search = MlflowClient.search_runs
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *a, **n: search(*a, **{**n, "max_results": 2}))
    assert {run["name"] for run in read_runs(tmp_path, "e")} == set("abc")
