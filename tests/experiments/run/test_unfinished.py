"""A training killed anywhere is gone on with by the same command, ends as it would have, and loses nothing."""

import errno
import json
import os

import pytest

from experiments.run import procedure, train, unfinished
from experiments.run.tracking import Tracker
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

    def call(out="run", overwrite=False, stop=None, **changed):
        call.said, call.steps = [], []

        def on_step(epoch, step, steps):
            call.steps.append(epoch)
            if stop is not None and len(call.steps) == stop:
                raise Killed

        settings = scorers.parse({**CHOSEN, **changed})
        return train.run_training(
            data, "t2i", settings, tmp_path / out, tracking=None, overwrite=overwrite, say=call.said.append,
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


def test_a_run_that_lacks_a_file_is_trained_again(go, whole, tmp_path):
    go()
    (tmp_path / "run" / "test.json").unlink()
    go()
    assert any("test.json is missing; training it again" in line for line in go.said)
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
    import shutil

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


def test_the_mlflow_run_of_a_dropped_training_is_closed(random_set, tmp_path):
    from mlflow import MlflowClient

    from experiments.run.store import store_uri
    from experiments.run.tracking import give_up

    tracker = Tracker(tmp_path)
    tracker.start("e", "first", {"a": 1}, {}, training="one")
    tracker.epoch({"epoch": 0, "loss": 1.0})
    again = Tracker(tmp_path)
    again.start("e", "first", {"a": 1}, {}, training="one")
    assert again.run_id == tracker.run_id
    history = [{"epoch": 0, "loss": 1.0}, {"epoch": 1, "loss": 0.5}]
    again.finish({"x": 2.0}, history=history)
    client = MlflowClient(store_uri(tmp_path))
    assert [m.step for m in client.get_metric_history(again.run_id, "train/loss")] == [0, 1]
    third = Tracker(tmp_path)
    third.start("e", "second", {}, {}, training="two")
    give_up(tmp_path, "e", "two")
    give_up(tmp_path, "e", "one")
    assert client.get_run(third.run_id).info.status == "KILLED"
    assert client.get_run(again.run_id).info.status == "FINISHED"


def test_the_procedure_keeps_both_fits(go, tmp_path):
    with pytest.raises(Killed):
        go(stop=7)
    kept = {path.name for path in (tmp_path / "run" / "checkpoint").iterdir()}
    assert "fit.safetensors" in kept
    assert procedure.SMALL > 40, "small sets are fitted twice"
