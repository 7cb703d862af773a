"""A trial: folds, what `train` does and nothing else, in this process or another."""

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from experiments.run import procedure
from experiments.run.train import run_training
from experiments.study import trial
from experiments.study.trial import Desk, Part, Trial
from rank_xmodal import scorers

QUICK = {"epochs": 2, "d_model": 8, "heads": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def data(random_set, tmp_path_factory):
    return random_set(["train"] * 60 + ["val"] * 20 + ["test"] * 30).write(tmp_path_factory.mktemp("trial") / "set")


def settings(**values):
    return scorers.parse(QUICK | values if values.get("scorer", "context_aware") == "context_aware" else values)


def trial_of(data, direction="t2i", split="test", protocols=("gallery",), **values):
    plain = settings(**values).model_dump(mode="json")
    return Trial(Part(str(data.root)), direction, plain, split, protocols)


def test_every_image_is_tested_once_in_a_permutation(data):
    parts = [Part("", 0, fold, 4).of(data) for fold in range(4)]
    tested = np.concatenate([np.flatnonzero(part.images["split"] == "test") for part in parts])
    assert len(set(tested.tolist())) == len(tested) == 108
    assert all((part.images["split"] == part.texts["split"]).all() for part in parts)
    assert all({*part.images["split"]} == {"train", "test"} for part in parts)
    assert len({part.fingerprint for part in parts}) == 4
    assert not (Part("", 1, 0, 4).of(data).images["split"] == parts[0].images["split"]).all()
    assert len({Part("", p, fold, 4).seed for p in range(2) for fold in range(4)}) == 8


@pytest.mark.parametrize(
    "values",
    [{}, {"scorer": "cca"}, {"scorer": "csls", "on": "centred"}],
    ids=["ours", "cca", "csls on centred"],
)
def test_a_trial_measures_what_train_does(data, tmp_path, values):
    """The refit on train and validation of a small set included."""
    report = run_training(data, "t2i", settings(**values), tmp_path / "run", tracking=None, say=lambda line: None)
    trained = pd.read_parquet(tmp_path / "run" / "test.parquet")
    frame = trial.run(trial_of(data, **values))
    pd.testing.assert_frame_equal(frame[list(trained)], trained)
    assert frame["ranker/R@1"].mean() == report["ranker"]["R@1"]
    assert frame["gallery"].unique() == [30]
    assert frame["hit"].mean() == report["ceiling"]


def test_validation_that_is_judged_is_never_trained_on(data, monkeypatch):
    found, real = [], procedure.fit
    monkeypatch.setattr(procedure, "fit", lambda *args, **named: found.append(real(*args, **named)) or found[-1])
    trial.run(trial_of(data, scorer="cca", split="val"))
    trial.run(trial_of(data, scorer="cca", split="test"))
    assert [fitted.trained_on for fitted in found] == [("train",), ("train", "val")]


def test_a_trial_runs_in_another_process(data):
    one = trial_of(data, direction="i2t", epochs=1)
    assert pickle.loads(pickle.dumps(one)) == one
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pd.testing.assert_frame_equal(pool.submit(trial.run, one).result(), trial.run(one))


def test_all_protocols_are_judged_by_one_training(random_set):
    data = random_set(["train"] * 60 + ["test"] * 80)
    frame = trial.run(trial_of(data, scorer="csls", protocols=("paper", "clean", "gallery")), Desk(data))
    assert list(frame["protocol"].unique()) == ["paper", "clean", "gallery"]
    assert frame.groupby("protocol")["gallery"].first().to_dict() == {"clean": 51, "gallery": 80, "paper": 51}
    assert frame["best_epoch"].isna().all()


def test_a_desk_keeps_the_lists_of_one_request(data, monkeypatch):
    asked, real = [], trial.mined
    monkeypatch.setattr(trial, "mined", lambda *args: asked.append(args[2].seed) or real(*args))
    desk = Desk(data)
    for seed in (0, 0, 1, 1, 0):
        desk.mine(data, "t2i", settings(seed=seed))
    assert asked == [0, 1, 0]
    assert len(desk._lists) == 1


def test_near_duplicates_are_never_parted_by_a_fold(data):
    images = np.array(data.image_emb)
    images[[5, 50]] = images[[60, 61]]
    twins = replace(data, image_emb=images)
    for fold in range(4):
        splits = Part("", 0, fold, 4).of(twins).images["split"]
        assert splits[5] == splits[60]
        assert splits[50] == splits[61]
