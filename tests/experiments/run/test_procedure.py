"""The procedure of every fit: what it learns from, and fitting again on train and validation."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from data_prep.mining.miner import mine
from experiments.run import procedure
from experiments.run.lists import mined
from experiments.run.train import run_training
from rank_xmodal import scorers
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.lists.scoring import score_lists
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.scorers.folder import load

PLAN = {"features": "embeddings", "epochs": 4, "negatives": 10, "pool": 20, "device": "cpu", "batch_size": 8}


@pytest.fixture
def data(random_set):
    return random_set(["train"] * 40 + ["val"] * 20 + ["test"] * 20)


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
        ({"scorer": "cca"}, None, 0, True),
        ({"scorer": "vsepp"}, 3, 0, True),
        ({"scorer": "vsepp"}, 0, 0, False),
        ({"scorer": "csls"}, None, 0, False),
        ({"scorer": "centred"}, None, 0, False),
    ],
)
def test_when_to_fit_again(data, keys, best_epoch, lists, answer, monkeypatch):
    settings = scorers.parse({**(PLAN if "scorer" not in keys else {}), **keys})
    scorer = procedure.scorer_of(settings)
    scorer.best_epoch = best_epoch
    prepared = procedure.Plan([object()] * bool(lists), None)
    monkeypatch.setattr(procedure.Plan, "lists", lists)
    assert procedure._again(settings, scorer, prepared, data, "t2i") is answer


@pytest.mark.parametrize("keys", [{**PLAN, "refit": True}, {"scorer": "vsepp", "epochs": 5, "refit": True}])
def test_validation_pairs_become_training_pairs_and_test_stays_out(data, keys, monkeypatch):
    fits, lists = [], []
    real = procedure.fit_stack

    def watched(scorer, given, *args, **options):
        fits.append((given, options))
        return real(scorer, given, *args, **options)

    def miner(given, direction, settings):
        lists.append(mined(given, direction, settings))
        return lists[-1]

    monkeypatch.setattr(procedure, "fit_stack", watched)
    monkeypatch.setattr(procedure, "_again", lambda *_: True)
    settings = scorers.parse({"device": "cpu", **keys})
    prepared = procedure.plan(data, "t2i", settings, mine=miner)
    fitted = procedure.fit(data, "t2i", settings, prepared, mine=miner)
    assert fitted.trained_on == ("train", "val")
    (first, _), (whole, options) = fits
    assert first is data
    assert (whole.images["split"] == ["train"] * 60 + ["test"] * 20).all()
    assert options["watch"].last_epoch == fitted.best_epoch
    assert options.get("validation") is None
    for given in lists[1:]:
        assert set(given.query.tolist()) <= set(range(60))
        assert given.query.max() >= 40
        assert given.candidates.max() < 60
    assert len(fitted.stack.bank) == 60
    assert len(fitted.history) == 1 + (4 if "scorer" not in keys else 5), "that of the fit that was validated"
    assert (data.images["split"] == "val").sum() == 20, "the set itself is as it was"


def test_stopping_at_an_epoch_is_the_way_of_the_whole_training_up_to_there(data):
    settings = scorers.parse(PLAN)
    lists = mine(data, "t2i", negatives=10, pool=20, protocol="natural")
    train_only = data
    train_only.images.loc[train_only.images["split"] == "val", "split"] = "out"
    train_only.texts.loc[train_only.texts["split"] == "val", "split"] = "out"
    prepared = procedure.plan(train_only, "t2i", settings, lists=lists)
    whole = procedure.fit(train_only, "t2i", settings, prepared)
    part = procedure.fit(train_only, "t2i", settings, prepared, watch=procedure.Watch(last_epoch=2))
    assert [h["loss"] for h in part.history[1:]] == [h["loss"] for h in whole.history[1:3]]
    assert part.best_epoch == 2


def test_a_base_that_learns_pairs_gets_lists_fold_by_fold(data):
    settings = scorers.parse({**PLAN, "on": "cca", "pool": "all", "negatives": 5})
    prepared = procedure.plan(data, "t2i", settings)
    assert len(prepared.parts) == 5
    for part in prepared.parts:
        known = set(part.knows.query_rows("t2i", "train"))
        assert known.isdisjoint(part.lists.query.tolist())
        assert known.isdisjoint(part.lists.candidates[part.lists.candidates >= 0].tolist())
    with pytest.raises(UserError, match="on=cca scores lists out of fold, and mines them"):
        procedure.plan(data, "t2i", settings, lists=prepared.parts[0].lists)
    plain = procedure.plan(data, "t2i", scorers.parse({**PLAN, "on": "centred"}))
    assert len(plain.parts) == 1, "two means know nothing of pairs"


def test_calibration_without_a_validation_is_refused_before_anything_is_fitted(random_set):
    data = random_set(["train"] * 40 + ["test"] * 20)
    with pytest.raises(UserError, match="calibrate=true needs a validation split"):
        procedure.plan(data, "t2i", scorers.parse({**PLAN, "calibrate": True}))


def test_a_run_says_that_it_was_trained_twice_and_ends_with_the_larger_bank(data, tmp_path):
    said = []
    plan = scorers.parse({**PLAN, "refit": True})
    stored = data.write(tmp_path / "set")
    run_training(stored, "t2i", plan, tmp_path / "run", tracking=None, say=said.append)
    stack, facts = load(tmp_path / "run")
    again = any("again on train and val" in line for line in said)
    assert again == (facts["best_epoch"] > 0)
    assert len(stack.bank) == (60 if again else 40)
    assert facts["trained_on"] == (["train", "val"] if again else ["train"])
    assert len(rank_gallery(stored, "t2i", "val").lists) == 20


@pytest.mark.parametrize("images", [8, 6, 4])
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
@pytest.mark.parametrize("per_image", [1, 5])
def test_the_default_ranker_is_trained_on_the_smallest_sets(random_set, images, direction, per_image):
    data = random_set(["train"] * images + ["test"] * 4)
    if per_image > 1:
        rows = np.arange(images + 4).repeat(per_image)
        texts = data.texts.iloc[rows].reset_index(drop=True)
        texts = texts.assign(text_id=[f"t{row}" for row in range(len(rows))])
        noise = np.random.default_rng(1).normal(size=(len(rows), 8)) * 0.3
        emb = data.text_emb[rows].astype(np.float32) + noise
        emb = (emb / np.linalg.norm(emb, axis=1, keepdims=True)).astype(np.float16)
        pairs = pd.DataFrame({"image": rows, "text": np.arange(len(rows)), "grade": 1})
        meta = {"name": "few", "fingerprint": f"few {images}"}
        data = EmbeddingSet(data.image_emb, emb, data.images, texts, pairs, meta)
    settings = scorers.parse({"device": "cpu"})
    fitted = procedure.fit(data, direction, settings, procedure.plan(data, direction, settings))
    gallery = rank_gallery(data, direction, "test")
    scores = score_lists(fitted.stack.scorer, fitted.stack.tensors(data, gallery.lists, torch.device("cpu")))
    assert bool(torch.isfinite(scores).all())


def test_what_can_not_be_cut_into_folds_is_said(random_set):
    """Every caption belongs to two images, so all are one group."""
    data = random_set(["train"] * 20 + ["test"] * 4)
    chain = pd.DataFrame({"image": [*range(24), *range(1, 20)], "text": [*range(24), *range(19)], "grade": 1})
    data = replace(data, relevance=chain, meta={"name": "chain", "fingerprint": "chain"})
    with pytest.raises(UserError, match=r"fewer than four groups .*use --features embeddings"):
        procedure.plan(data, "t2i", scorers.parse({"device": "cpu"}))
    stack = procedure.fit(
        data, "t2i", s := scorers.parse({"scorer": "inverted_softmax"}), procedure.plan(data, "t2i", s)
    )
    assert stack.stack.scorer.strength == stack.stack.scorer.strengths[0]


def test_too_few_lists_to_calibrate_on_are_refused_before_anything_is_fitted(random_set):
    data = random_set(["train"] * 40 + ["val"] * 8 + ["test"] * 12)
    settings = scorers.parse({"scorer": "csls", "calibrate": True, "device": "cpu"})
    with pytest.raises(UserError, match=r"hold 8 relevant and \d+ other candidates, and at least 20"):
        procedure.plan(data, "t2i", settings)
