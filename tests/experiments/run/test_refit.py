"""Training again on train and validation: when, on what, and for how long."""

import numpy as np
import pytest
import torch

from data_prep.mining.miner import mine
from experiments.run import refit
from rank_xmodal import scorers
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.training.loop import Trained, train

PLAN = {"epochs": 4, "negatives": 10, "pool": 20, "device": "cpu", "batch_size": 8}


@pytest.fixture
def data(random_set):
    return random_set(["train"] * 40 + ["val"] * 20 + ["test"] * 20)


def first(best_epoch=3):
    return Trained(torch.nn.Linear(1, 1), np.zeros((1, 8)), [{"epoch": 0.0}], best_epoch)


@pytest.mark.parametrize(
    ("keys", "best_epoch", "lists", "answer"),
    [
        ({}, 3, 4_999, True),
        ({}, 3, 5_000, False),
        ({"refit": True}, 3, 5_000, True),
        ({"refit": False}, 3, 100, False),
        ({}, 0, 100, False),
        ({"calibrate": True}, 3, 100, False),
        ({"features": "concat"}, 3, 100, False),
    ],
)
def test_when(keys, best_epoch, lists, answer):
    assert refit.wanted(scorers.parse({**PLAN, **keys}), first(best_epoch), lists) is answer


def test_validation_pairs_become_training_pairs_and_test_stays_out(data, monkeypatch):
    seen = {}

    def watched(whole, lists, plan, **options):
        seen.update(options, whole=whole, lists=lists)
        return train(whole, lists, plan, **options)

    monkeypatch.setattr(refit, "train", watched)
    plan = scorers.parse(PLAN)
    again = refit.refit(data, "t2i", plan, first(3))
    assert (seen["whole"].images["split"] == ["train"] * 60 + ["test"] * 20).all()
    assert set(seen["lists"].query.tolist()) <= set(range(60))
    assert seen["lists"].candidates.max() < 60
    assert seen["lists"].query.max() >= 40
    assert len(again.bank) == 60
    assert again.best_epoch == 3
    assert again.history == [{"epoch": 0.0}]
    assert (data.images["split"] == "val").sum() == 20, "the set itself is as it was"


def test_stopping_at_an_epoch_is_the_way_of_the_whole_training_up_to_there(data):
    plan = scorers.parse(PLAN)
    lists = mine(data, "t2i", negatives=10, pool=20, protocol="natural")
    whole = train(data, lists, plan)
    part = train(data, lists, plan, last_epoch=2)
    assert [h["loss"] for h in part.history[1:]] == [h["loss"] for h in whole.history[1:3]]
    assert part.best_epoch == 2


def test_a_run_says_that_it_was_trained_twice_and_ends_with_the_larger_bank(data, tmp_path):
    from experiments.run.train import run_training
    from rank_xmodal.scorers import folder as ranker_folder

    said = []
    plan = scorers.parse({**PLAN, "refit": True})
    stored = data.write(tmp_path / "set")
    run_training(stored, "t2i", plan, tmp_path / "run", tracking=None, say=said.append)
    _, bank, facts = ranker_folder.load(tmp_path / "run")
    again = any("again on train and val" in line for line in said)
    assert again == (facts["best_epoch"] > 0)
    assert len(bank) == (60 if again else 40)
    assert facts["trained_on"] == (["train", "val"] if again else ["train"])
    assert len(rank_gallery(stored, "t2i", "val").lists) == 20
