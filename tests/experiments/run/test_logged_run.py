"""What MLflow is told of a training: its description, what it was compared with, and its ranker as a model."""

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from experiments.run import logged_model, logged_run
from experiments.run.references import log_references
from experiments.run.store import open_store, store_uri
from experiments.run.tracking import read_runs
from experiments.run.train import run_training
from experiments.study.compare import from_experiment
from rank_xmodal import scorers
from rank_xmodal.use.reranker import Reranker


@pytest.fixture(scope="module")
def place(random_set, tmp_path_factory):
    """Return a folder with the store of two trainings that share a set and a direction, and that set."""
    folder = tmp_path_factory.mktemp("logged")
    data = random_set(["train"] * 30 + ["test"] * 20).write(folder / "set")
    for name in ("csls", "centred"):
        train(data, folder, name)
    return folder, data


def train(data, folder, name, say=lambda line: None):
    settings = scorers.parse({"scorer": name, "device": "cpu"})
    return run_training(data, "t2i", settings, folder / name, tracking=folder / "mlruns", say=say)


def runs_of(folder):
    client = open_store(folder / "mlruns")
    number = client.get_experiment_by_name("random").experiment_id
    return client, {run.info.run_name: run for run in client.search_runs([number])}, number


def test_clip_and_csls_are_runs_of_their_own_each_once_with_the_names_of_all(place):
    client, runs, number = runs_of(place[0])
    every = [run.info.run_name for run in client.search_runs([number])]
    assert sorted(every) == ["CLIP-t2i", "CSLS-t2i", "centred-t2i", "csls-t2i"]
    report = json.loads((place[0] / "csls" / "test.json").read_text())
    for row, label in (("clip", "CLIP"), ("csls", "CSLS")):
        found = runs[f"{label}-t2i"]
        assert found.info.status == "FINISHED"
        assert found.data.tags["kind"] == "reference"
        assert found.data.metrics["test/R1"] == report[row]["R@1"]
        assert found.data.metrics["gain/R1"] == pytest.approx(report[row]["R@1"] - report["clip"]["R@1"])
        own = {key for key in runs["csls-t2i"].data.metrics if key.startswith(("test/", "gain/"))}
        assert found.data.metrics.keys() == own


def test_csls_with_the_bank_of_another_training_is_told_apart(random_set, tmp_path):
    data = random_set(["train"] * 30 + ["val"] * 10 + ["test"] * 20).write(tmp_path / "set")
    report = train(data, tmp_path, "csls")
    log_references(tmp_path / "mlruns", data, "t2i", report, ["train", "val"])
    _, runs, _ = runs_of(tmp_path)
    assert runs.keys() == {"CLIP-t2i", "CSLS-t2i", "CSLS-t2i (train and val)", "csls-t2i"}
    assert "trained on train and val" in runs["CSLS-t2i (train and val)"].data.tags["mlflow.note.content"]


def test_another_set_or_direction_has_references_of_its_own(place, tmp_path):
    _, data = place
    settings = scorers.parse({"scorer": "csls", "device": "cpu"})
    for direction in ("t2i", "i2t"):
        run_training(data, direction, settings, tmp_path / direction, tracking=tmp_path / "m", say=lambda line: None)
    client = open_store(tmp_path / "m")
    number = client.get_experiment_by_name("random").experiment_id
    named = sorted(run.info.run_name for run in client.search_runs([number], "tags.kind = 'reference'"))
    assert named == ["CLIP-i2t", "CLIP-t2i", "CSLS-i2t", "CSLS-t2i"]


def test_a_training_killed_while_they_are_logged_leaves_none_running(random_set, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(self, *arguments, **named):
        raise Killed

    data = random_set(["train"] * 30 + ["test"] * 20).write(tmp_path / "set")
    with monkeypatch.context() as patch:
        patch.setattr("experiments.run.tracking.Tracker.finish", kill)
        with pytest.raises(Killed):
            train(data, tmp_path, "csls")
    assert {run.info.status for run in runs_of(tmp_path)[1].values()} == {"RUNNING"}
    train(data, tmp_path, "csls")
    client, runs, number = runs_of(tmp_path)
    assert {name: run.info.status for name, run in runs.items()} == dict.fromkeys(
        ("CLIP-t2i", "CSLS-t2i", "csls-t2i"), "FINISHED"
    )
    assert len(client.search_runs([number])) == 3


def test_a_comparison_of_trainings_knows_nothing_of_them(place):
    said = []
    found = from_experiment(place[0] / "mlruns", "random", said.append)
    assert sorted(one.row for one in found) == ["CSLS (run)", "centred cosine"]
    assert said == []
    assert {run["name"] for run in read_runs(place[0] / "mlruns", "random")} == {"csls-t2i", "centred-t2i"}


def test_the_description_begins_with_the_table_and_says_what_was_ranked(place):
    _, runs, _ = runs_of(place[0])
    note = runs["centred-t2i"].data.tags["mlflow.note.content"]
    assert note.startswith("| row | R@1 |")
    assert "| CLIP |" in note
    assert "| ranker |" in note
    assert "20 queries, a gallery of 20" in note


LOADED = """
import json, sys
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
assert "torch" in sys.modules
assert model.metadata.signature.inputs.input_names() == ["query", "candidates"]
assert model.metadata.signature.outputs.input_names() == ["order", "scores"]
print(json.dumps(model.predict(model.input_example).to_dict("records")))
"""


def test_the_model_is_loaded_in_another_process_and_registered(place):
    folder, data = place
    client, runs, number = runs_of(folder)
    models = {model.name: model for model in client.search_logged_models([number])}
    assert models.keys() == {"csls-t2i", "centred-t2i"}
    model, run = models["csls-t2i"], runs["csls-t2i"]
    assert [one.model_id for one in run.outputs.model_outputs] == [model.model_id]
    files = [path for path in (folder / "mlruns/artifacts/models" / model.model_id).rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".pt")]
    asked = logged_model.example(data, "t2i")
    wanted = Reranker.from_pretrained(folder / "csls", "cpu").rank(
        np.array(asked["query"][0], np.float32), np.array(asked["candidates"][0], np.float32)
    )
    command = [sys.executable, "-W", "ignore", "-c", LOADED, store_uri(folder / "mlruns"), model.model_uri]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, cwd=folder)
    (line,) = json.loads(shown.stdout.splitlines()[-1])
    assert line["order"] == wanted.rows.tolist()
    assert line["scores"] == pytest.approx(wanted.scores.tolist(), abs=1e-6)
    client.create_registered_model("ours")
    version = client.create_model_version("ours", model.artifact_location, run.info.run_id, model_id=model.model_id)
    assert version.status == "READY"


def test_a_bad_line_of_the_models_input_is_named(place):
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc.model import PythonModelContext

    from experiments.run.pyfunc import RankerModel

    context = PythonModelContext({"config.json": str(place[0] / "csls" / "config.json")}, {})
    model = RankerModel()
    model.load_context(context)
    good, zero = np.ones(8).tolist(), np.zeros(8).tolist()
    lines = pd.DataFrame({"query": [good, good], "candidates": [[good], [good, zero]]})
    assert model.predict(context, lines[:1])["order"][0] == [0]
    with pytest.raises(MlflowException, match=r"line 2 of the input: .*zero"):
        model.predict(context, lines)
    ragged = pd.DataFrame({"query": [good], "candidates": [[good, good[:-1]]]})
    with pytest.raises(MlflowException, match="line 1 of the input"):
        model.predict(context, ragged)


def test_served_it_answers_as_the_ranker_does_and_says_what_is_wrong(place, monkeypatch):
    import mlflow
    from fastapi.testclient import TestClient
    from mlflow.pyfunc.scoring_server import init

    folder, data = place
    _, runs, _ = runs_of(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri(folder / "mlruns"))
    (output,) = runs["csls-t2i"].outputs.model_outputs
    served = TestClient(init(mlflow.pyfunc.load_model(f"models:/{output.model_id}")))
    query, candidates = np.asarray(data.queries("t2i")[3], np.float64), np.eye(8)
    wanted = Reranker.from_pretrained(folder / "csls", "cpu").rank(query, candidates)
    # As JavaScript writes numbers: 1.0 as 1.
    asked = [{"query": query.tolist(), "candidates": candidates.astype(int).tolist()}]
    (line,) = served.post("/invocations", json={"dataframe_records": asked}).json()["predictions"]
    assert line["order"] == wanted.rows.tolist()
    assert line["scores"] == pytest.approx(wanted.scores.tolist(), abs=1e-6)
    asked += [{"query": [0.0] * 8, "candidates": candidates.tolist()}]
    answer = served.post("/invocations", json={"dataframe_records": asked})
    assert answer.status_code == 400
    assert re.search("line 2 of the input: .*zero", answer.json()["message"])


def test_a_model_that_can_t_be_logged_costs_neither_the_training_nor_the_run(random_set, tmp_path, monkeypatch):
    def fail(*arguments, **named):
        raise OSError("no room for a model")

    data = random_set(["train"] * 30 + ["test"] * 20).write(tmp_path / "set")
    with monkeypatch.context() as patch:
        patch.setattr(logged_run, "log_model", fail)
        said = []
        report = train(data, tmp_path, "csls", said.append)
    assert report["ranker"]["R@1"] > 0
    assert any("no room for a model" in line for line in said)
    _, runs, _ = runs_of(tmp_path)
    assert runs["csls-t2i"].info.status == "FINISHED"
    assert "test/R1" in runs["csls-t2i"].data.metrics


def test_a_model_that_was_begun_is_completed_and_not_logged_twice(random_set, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    data = random_set(["train"] * 30 + ["test"] * 20).write(tmp_path / "set")

    def fail(*arguments, **named):
        raise OSError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "finalize_logged_model", fail)
        train(data, tmp_path, "csls")
    client, runs, number = runs_of(tmp_path)
    (model,) = client.search_logged_models([number])
    assert model.status == "PENDING"
    for _ in range(2):
        given = logged_model.example(data, "t2i")
        logged_model.log_model(client, runs["csls-t2i"].info.run_id, tmp_path / "csls", given)
    (model,) = client.search_logged_models([number])
    assert model.status == "READY"
    run = client.get_run(runs["csls-t2i"].info.run_id)
    assert [one.model_id for one in run.outputs.model_outputs] == [model.model_id]


def test_a_scorer_that_looks_at_words_or_images_is_no_model_of_embeddings_alone():
    assert logged_model.can_be_logged(scorers.get("csls"))
    for name in ("scan", "blip_itm"):
        assert not logged_model.can_be_logged(scorers.get(name))


def test_of_a_loss_only_what_was_set_is_a_parameter(random_set):
    data = random_set(["train"] * 30 + ["test"] * 20)

    class Lists:
        lists, parts = 3, [type("Part", (), {"lists": type("L", (), {"length": 5})})]

    def told(**settings):
        return logged_run.params_of(data, "t2i", scorers.parse(settings), Lists)

    assert not [key for key in told(loss="neuralndcg") if key.startswith("loss_params")]
    assert told(loss="listnet", loss_params={"temperature": 0.5})["loss_params.temperature"] == 0.5
