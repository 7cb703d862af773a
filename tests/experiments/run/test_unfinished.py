"""A training killed anywhere is gone on with by the same command, ends as it would have, and loses nothing."""

import errno
import json
import os
import shutil

import pytest

from experiments.run import procedure, train, unfinished
from experiments.run.tracking import KIND, Tracker
from experiments.run.unfinished import Unfinished
from rank_xmodal import scorers
from rank_xmodal.errors import UserError
from rank_xmodal.files import held, locked, replacing
from rank_xmodal.scorers.folder import load

CHOSEN = {
    "features": "embeddings", "epochs": 3, "patience": 99, "d_model": 8, "d_ff": 8, "heads": 1, "batch_size": 8,
    "negatives": 4, "pool": 12, "lr": 0.01, "device": "cpu", "refit": True,
}  # fmt: skip


class Killed(BaseException):
    """What a test throws in place of a kill: nothing of ours catches it."""


@pytest.fixture
def go(random_set, tmp_path, monkeypatch):
    """Return a function that trains into tmp_path/run; its `said` and `steps` are of the last call."""
    # Else nothing that is learnt from noise is kept, and there is no second fit to be interrupted.
    monkeypatch.setattr("rank_xmodal.training.checkpoint.Checkpoint._good_enough", lambda *_: True)
    data = random_set(["train"] * 40 + ["val"] * 12 + ["test"] * 12, noise=0.7).write(tmp_path / "set")

    def call(out="run", overwrite=False, stop=None, tracking=None, **changed):
        call.said, call.steps = [], []

        def on_step(epoch, step, steps):
            call.steps.append(epoch)
            if stop is not None and len(call.steps) == stop:
                raise Killed

        settings = scorers.parse({**CHOSEN, **changed})
        with monkeypatch.context() as patch:
            if stop is not None:  # a kill closes nothing
                patch.setattr(Tracker, "finish", lambda *arguments, **named: None)
            return train.run_training(
                data, "t2i", settings, tmp_path / out, tracking=tracking, overwrite=overwrite, say=call.said.append,
                on_step=on_step,
            )  # fmt: skip

    call.data = data
    return call


def files(folder):
    """Return a run's files; config.json without what no two trainings have in common."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "report.html"}
    facts = json.loads(found["config.json"])
    for epoch in facts["history"]:
        epoch.pop("seconds", None)
    card = found["README.md"].replace(str(folder).encode(), b"RUN")
    return {**found, "config.json": facts, "README.md": card}


@pytest.fixture
def whole(go, tmp_path):
    go("whole")
    assert len(go.steps) > 15, "there is a second fit"
    return files(tmp_path / "whole"), len(go.steps)


def test_a_training_killed_at_any_step_goes_on_in_the_refit_too(go, whole, tmp_path):
    expected, steps = whole
    for stop in range(1, steps + 1, 4):
        out = f"run{stop}"
        with pytest.raises(Killed):
            go(out, stop=stop)
        assert not (tmp_path / out / "config.json").exists()
        assert (tmp_path / out / "checkpoint" / "training.json").is_file()
        go(out)
        assert len(go.steps) < steps or stop < 6, "finished epochs are not done again"
        assert "  going on with the training that was interrupted" in go.said
        assert files(tmp_path / out) == expected
        assert sorted(os.listdir(tmp_path / out)) == sorted(os.listdir(tmp_path / "whole"))


@pytest.mark.parametrize("name", ["write_report", "read_json", "write_json"])
def test_a_training_killed_while_it_writes_is_completed(go, whole, tmp_path, monkeypatch, name):
    def kill(*arguments, **named):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(train, name, kill)
        with pytest.raises(Killed):
            go()
    assert not (tmp_path / "run" / "config.json").exists()
    go()
    assert not go.steps, "nothing is trained again"
    assert files(tmp_path / "run") == whole[0]


@pytest.mark.parametrize("at", range(9))
def test_a_training_killed_between_two_renames_is_completed(go, whole, tmp_path, monkeypatch, at):
    """The last file comes last: no folder holds the files of two trainings and says that it is whole."""
    go(epochs=1)
    real, left = os.replace, [at]

    def replace(source, target):
        if "finished" in str(source) and "part" not in str(source):
            if not left[0]:
                raise Killed
            left[0] -= 1
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(unfinished.os, "replace", replace)
        if at < 7:
            with pytest.raises(Killed):
                go(overwrite=True)
            with pytest.raises(UserError, match="interrupted: the same command goes on"):
                load(tmp_path / "run")
    go(overwrite=True)
    assert files(tmp_path / "run") == whole[0]


def test_killed_after_the_last_file_the_end_is_made_up_for(go, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Unfinished, "remove", lambda self: (_ for _ in ()).throw(Killed) if self.name else None)
        with pytest.raises(Killed):
            go()
    assert (tmp_path / "run" / "config.json").is_file()
    go()
    assert files(tmp_path / "run") == whole[0]
    go()
    assert "already trained" in go.said[-1]


def test_a_checkpoint_without_its_facts_is_none(go, whole, tmp_path):
    """A kill amid its removal made every repeat fail, with --overwrite too."""
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    (tmp_path / "run" / "checkpoint" / "fit.safetensors").write_bytes(b"half")
    go()
    assert files(tmp_path / "run") == whole[0]


def test_a_run_that_lacks_a_file_gets_it(go, whole, tmp_path):
    go()
    pages = {name: (tmp_path / "run" / name).read_bytes() for name in ("test.json", "report.html")}
    for name in pages:
        (tmp_path / "run" / name).unlink()
    go()
    assert not go.steps
    assert {name: (tmp_path / "run" / name).read_bytes() for name in pages} == pages
    (tmp_path / "run" / "query_bank.npy").unlink()
    go()
    assert files(tmp_path / "run") == whole[0]


def test_another_unfinished_training_is_not_lost_by_a_slip(go, whole, tmp_path):
    with pytest.raises(Killed):
        go(stop=7)
    with pytest.raises(UserError, match=r"an unfinished training with other settings is kept here.*--overwrite"):
        go(lr=0.5)
    go()
    assert files(tmp_path / "run") == whole[0]
    with pytest.raises(Killed):
        go("other", stop=7, lr=0.5)
    go("other", overwrite=True)
    assert files(tmp_path / "other") == whole[0]


def test_a_checkpoint_is_not_resumed_on_other_lists(go, tmp_path, monkeypatch):
    """Lists of the same length, of which nobody noticed that they were others."""
    from dataclasses import replace

    from experiments.run import lists

    with pytest.raises(Killed):
        go(stop=7)
    real = lists.mined

    def other(data, direction, settings):
        found = real(data, direction, settings)
        return replace(found, candidates=found.candidates[:, ::-1].copy(), labels=found.labels[:, ::-1].copy())

    for path in (tmp_path / "set" / "lists").glob("*.parquet"):
        path.unlink()
    monkeypatch.setattr(lists, "mined", other)
    with pytest.raises(UserError, match="a training with other lists"):
        go()


def test_two_at_once(go, tmp_path):
    with (
        held(tmp_path / "run", "training into it"),
        pytest.raises(UserError, match="another process is training into it"),
    ):
        go()
    assert not (tmp_path / "run").exists(), "nothing was put into it"
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run", "training into it"), pytest.raises(UserError, match="another process"):
        go()
    assert (tmp_path / "run").is_dir(), "the one that was refused doesn't remove it"
    go()


def test_a_link_is_trained_into_and_stays(go, whole, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    go()
    assert (tmp_path / "run").is_symlink()
    assert {path.name for path in (tmp_path / "disk").iterdir()} == set(whole[0]) | {"report.html"}


def test_a_set_that_may_not_be_written_to_is_trained_on(go, whole, tmp_path, monkeypatch):
    shutil.rmtree(tmp_path / "set" / "lists")
    real = replacing

    def refused(path):
        if "/set/" in str(path):
            raise UserError(f"{path}: can't be written.") from PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr("rank_xmodal.data.candidate_lists.replacing", refused)
    go()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {*whole[0], "report.html", "lists"}
    assert list((tmp_path / "run" / "lists").glob("t2i-train-*.parquet"))


def runs_of(folder):
    from mlflow import MlflowClient

    from experiments.run.store import store_uri

    client = MlflowClient(store_uri(folder))
    every = client.search_runs([one.experiment_id for one in client.search_experiments()])
    return client, sorted((run.info.status, run.info.run_id) for run in every if KIND not in run.data.tags)


def steps_of(client, run_id):
    return sorted(metric.step for metric in client.get_metric_history(run_id, "val/MRR"))


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """Return a folder with a store that is made once: its tables take seconds."""
    from experiments.run.store import open_store

    folder = tmp_path_factory.mktemp("store")
    open_store(folder, make=True)
    return folder


@pytest.fixture
def stores(empty_store, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(empty_store / "mlflow.db", tmp_path / name)
    return tmp_path / "one", tmp_path / "two"


def test_an_interrupted_training_goes_on_in_its_mlflow_run(go, stores):
    with pytest.raises(Killed):
        go(stop=7, tracking=stores[0])
    go(tracking=stores[0])
    client, found = runs_of(stores[0])
    assert [status for status, _ in found] == ["FINISHED"]
    assert steps_of(client, found[0][1]) == [0, 1, 2, 3]


@pytest.mark.parametrize("second", ["another store", "none"])
def test_a_training_that_goes_on_elsewhere_closes_its_first_run_and_logs_all_epochs(go, stores, second):
    with pytest.raises(Killed):
        go(stop=12, tracking=stores[0])
    go(tracking=None if second == "none" else stores[1])
    assert [status for status, _ in runs_of(stores[0])[1]] == ["KILLED"]
    if second != "none":
        client, found = runs_of(stores[1])
        assert [status for status, _ in found] == ["FINISHED"]
        assert steps_of(client, found[0][1]) == [0, 1, 2, 3], "those before the interruption, too"


def test_a_copy_of_an_unfinished_training_gets_a_run_of_its_own(go, stores, tmp_path):
    with pytest.raises(Killed):
        go(stop=12, tracking=stores[0])
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    go(tracking=stores[0])
    go("copy", tracking=stores[0])
    client, found = runs_of(stores[0])
    assert [status for status, _ in found] == ["FINISHED", "FINISHED"]
    assert [steps_of(client, one) for _, one in found] == [[0, 1, 2, 3]] * 2


def test_a_training_that_is_dropped_has_its_run_closed(go, stores):
    with pytest.raises(Killed):
        go(stop=7, tracking=stores[0])
    go(overwrite=True, lr=0.5, tracking=stores[0])
    assert [status for status, _ in runs_of(stores[0])[1]] == ["FINISHED", "KILLED"]


def test_a_store_that_fails_once_has_all_in_the_end(go, stores, monkeypatch):
    from mlflow import MlflowClient

    real, calls = MlflowClient.log_batch, []

    def fail_once(self, *arguments, **named):
        calls.append(1)
        if len(calls) == 3:
            raise OSError("database is locked")
        return real(self, *arguments, **named)

    monkeypatch.setattr(MlflowClient, "log_batch", fail_once)
    go(tracking=stores[0])
    assert any("database is locked" in line for line in go.said)
    assert not any("not tracked" in line for line in go.said)
    client, found = runs_of(stores[0])
    assert [status for status, _ in found] == ["FINISHED"]
    assert steps_of(client, found[0][1]) == [0, 1, 2, 3]


def test_a_run_that_could_not_be_closed_is_closed_by_the_repeat(go, stores, monkeypatch):
    from mlflow import MlflowClient

    def refuse(*arguments, **named):
        raise OSError("database is locked")

    with monkeypatch.context() as patch:
        for name in ("set_terminated", "log_artifact"):
            patch.setattr(MlflowClient, name, refuse)
        go(tracking=stores[0])
    assert "not tracked in MLflow" in go.said[-1]
    _, found = runs_of(stores[0])
    assert [status for status, _ in found] == ["RUNNING"]
    rest = stores[0] / "artifacts" / found[0][1] / "artifacts"
    rest.mkdir(parents=True)
    (rest / ".artifact.uploading.x").write_text("half")
    go(tracking=stores[0])
    assert not go.steps
    assert [status for status, _ in runs_of(stores[0])[1]] == ["FINISHED"]
    assert "report.html" in os.listdir(rest)
    assert not list(rest.glob(".artifact*"))


def test_what_could_not_be_tracked_is_said_again_at_the_end(go, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "mlflow.db").write_bytes(b"nothing" * 99)
    go(tracking=tmp_path / "bad")
    assert "run: not tracked in MLflow (" in go.said[-1]


def test_a_finished_run_is_not_called_killed_by_its_repeat(stores):
    for status in ("FINISHED", "KILLED"):
        tracker = Tracker(stores[0])
        tracker.start("e", "search", {}, {}, training="one")
        tracker.finish(status=status)
    assert [status for status, _ in runs_of(stores[0])[1]] == ["FINISHED"]


def test_a_deleted_experiment_is_told(stores):
    tracker = Tracker(stores[0])
    tracker.start("e", "search", {}, {})
    tracker.finish()
    client, _ = runs_of(stores[0])
    client.delete_experiment(client.get_experiment_by_name("e").experiment_id)
    again = Tracker(stores[0], lambda line: None)
    again.start("e", "search", {}, {})
    assert "mlflow experiments restore" in again.failed


def test_a_folder_of_the_users_own_is_never_removed(go, tmp_path):
    (tmp_path / "run" / "checkpoint" / "mine").mkdir(parents=True)
    for overwrite in (False, True):
        with pytest.raises(UserError, match="holds 'mine', which is no work of a training"):
            go(overwrite=overwrite)
    assert (tmp_path / "run" / "checkpoint" / "mine").is_dir()


def test_a_checkpoint_that_cannot_be_read_is_not_taken_for_none(go, tmp_path):
    with pytest.raises(Killed):
        go(stop=12)
    (tmp_path / "run" / "checkpoint" / "training.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        go()
    assert (tmp_path / "run" / "checkpoint" / "fit.safetensors").is_file()
    go(overwrite=True)


def test_a_training_that_an_earlier_version_left_begins_anew(go, whole, stores, tmp_path):
    tracker = Tracker(stores[0])
    tracker.start("random", "old", {}, {})
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    for name in ("state.json", "state.safetensors"):
        (tmp_path / "run" / "checkpoint" / name).write_text("{}")
    (tmp_path / "run" / "checkpoint.run").write_text(tracker.run_id)
    go(tracking=stores[0])
    assert [status for status, _ in runs_of(stores[0])[1]] == ["FINISHED", "KILLED"]
    assert sorted(os.listdir(tmp_path / "run")) == sorted(os.listdir(tmp_path / "whole"))


def test_a_damaged_ranker_is_trained_again(go, whole, tmp_path):
    go()
    weights = tmp_path / "run" / "model.safetensors"
    spoiled = bytearray(weights.read_bytes())
    spoiled[-3] ^= 1
    weights.write_bytes(bytes(spoiled))
    go()
    assert any("damaged" in line and "Training it again" in line for line in go.said)
    assert files(tmp_path / "run") == whole[0]


def test_the_procedure_keeps_both_fits(go, tmp_path):
    with pytest.raises(Killed):
        go(stop=7)
    kept = {path.name for path in (tmp_path / "run" / "checkpoint").iterdir()}
    assert "fit.safetensors" in kept
    assert procedure.SMALL > 40, "small sets are fitted twice"
