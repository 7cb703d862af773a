"""What holds for all of them: the registry, learning, the seed, and that only train is learnt from."""

import dataclasses

import numpy as np
import pytest
import torch

from rank_xmodal import baselines
from rank_xmodal.baselines import BASELINES, CCA, CMPM, DCCA, VSEPP
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation import first_stage, per_query, score_lists
from rank_xmodal.list_tensors import ListTensors
from rank_xmodal.query_bank import neighbours

TRAINED = ["cca", "dcca", "cmpm", "vsepp"]


def quick(name):
    """Return the baseline with settings for a second: the 400 planted training pairs make few steps an epoch."""
    return {
        "cca": CCA,
        "dcca": lambda: DCCA(hidden=128, batch_size=200, lr=3e-3, r1=1.0, r2=1.0),
        "cmpm": lambda: CMPM(lr=2e-3),
        "vsepp": lambda: VSEPP(lr=5e-3),
    }.get(name, BASELINES[name])()


def lists_of(data, direction, split="test"):
    stage = first_stage(data, direction, split)
    near = neighbours(data.candidates(direction), data.queries(direction)[data.query_rows(direction, "train")])
    return stage, ListTensors.gather(data, stage.lists, near, torch.device("cpu"), in_bank=False)


def mrr(scores, stage):
    return float(per_query(scores, stage)["MRR"].mean())


def test_the_table_and_the_names_agree():
    for name in BASELINES:
        baseline = baselines.get(name)
        assert baseline.name == name
        assert baseline.paper


def test_every_call_makes_a_new_one():
    assert baselines.get("cca") is not baselines.get("cca")


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(UserError, match=r"unknown baseline 'vse\+\+'\. Did you mean 'vsepp'\?"):
        baselines.get("vse++")
    with pytest.raises(UserError, match=r"unknown baseline 'xyz'\. Baselines: clip, csls, inverted_softmax, cca"):
        baselines.get("xyz")


@pytest.mark.parametrize("name", BASELINES)
def test_an_unknown_direction_is_refused(corpus, name):
    with pytest.raises(UserError, match="direction='image'"):
        baselines.get(name).fit(corpus.data, "image")


@pytest.mark.parametrize("name", TRAINED)
def test_scoring_before_fitting_is_an_error(corpus, name):
    with pytest.raises(RuntimeError, match="fit comes before score"):
        baselines.get(name).score(corpus.random_batch())


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_scores_are_finite_and_repeat(corpus, name, direction):
    data = corpus.data
    stage, tensors = lists_of(data, direction)
    before = torch.get_rng_state()
    one, two = (score_lists(quick(name).fit(data, direction, seed=3).score, tensors) for _ in range(2))
    assert one.shape == (len(stage.lists), stage.lists.length)
    assert one.dtype == torch.float32
    assert bool(torch.isfinite(one).all())
    assert torch.equal(one, two)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["dcca", "cmpm", "vsepp"])
def test_another_seed_gives_other_scores(corpus, name):
    batch = corpus.random_batch(dim=24)
    one, two = (quick(name).fit(corpus.data, "t2i", seed=seed).score(batch) for seed in (0, 1))
    assert not torch.equal(one, two)


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_it_learns_the_planted_corpus(corpus, name, direction):
    stage, tensors = lists_of(corpus.data, direction)
    found = score_lists(quick(name).fit(corpus.data, direction).score, tensors)
    assert mrr(found, stage) > mrr(torch.from_numpy(stage.lists.cosine), stage) + 0.03


@pytest.mark.parametrize("name", TRAINED)
def test_a_validation_helps_on_its_own_lists(corpus, name):
    stage, tensors = lists_of(corpus.data, "t2i", "val")
    plain, chosen = quick(name).fit(corpus.data, "t2i"), quick(name).fit(corpus.data, "t2i", validation=stage)
    assert mrr(score_lists(chosen.score, tensors), stage) >= mrr(score_lists(plain.score, tensors), stage) - 1e-6


@pytest.mark.parametrize("make", [CCA, lambda: CCA(ridge=0.5), DCCA, CMPM, VSEPP])
def test_nothing_may_be_chosen_by_the_test_split(corpus, make):
    with pytest.raises(ValueError, match="of the split 'test', by which nothing may be chosen: pass 'val'"):
        make().fit(corpus.data, "t2i", validation=first_stage(corpus.data, "t2i", "test"))


def corrupted(data):
    """Return the set with everything outside of train drawn anew, and other pairs there and across splits."""
    rng = np.random.default_rng(9)
    image_emb, text_emb, relevance = np.array(data.image_emb), np.array(data.text_emb), data.relevance.copy()
    for emb, table in ((image_emb, data.images), (text_emb, data.texts)):
        other = (table["split"] != "train").to_numpy()
        drawn = rng.normal(size=emb[other].shape)
        emb[other] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    train_text = (data.texts["split"] == "train").to_numpy()[relevance["text"]]
    others = np.flatnonzero(~train_text)
    images = np.flatnonzero((data.images["split"] != "train").to_numpy())
    relevance.loc[others, "image"] = rng.choice(images, len(others)).astype(np.int32)
    across = relevance.iloc[others[:5]].copy()
    across["image"] = np.arange(5, dtype=np.int32)  # images of train
    relevance = type(relevance)(np.concatenate([relevance, across]), columns=relevance.columns)
    return dataclasses.replace(data, image_emb=image_emb, text_emb=text_emb, relevance=relevance)


@pytest.mark.parametrize("name", TRAINED)
def test_nothing_but_train_is_learnt_from(corpus, name):
    batch = corpus.random_batch(dim=24)
    one, two = (quick(name).fit(data, "t2i").score(batch) for data in (corpus.data, corrupted(corpus.data)))
    assert torch.equal(one, two)


@pytest.mark.parametrize("name", TRAINED)
def test_padding_changes_no_other_score(corpus, name):
    baseline, batch = quick(name).fit(corpus.data, "t2i"), corpus.random_batch(dim=24)
    torch.testing.assert_close(baseline.score(corpus.pad(batch))[:, :7], baseline.score(batch))


@pytest.mark.parametrize("name", TRAINED)
def test_many_to_many_pairs_and_grades(corpus, name):
    """A caption of two images and an image without captions: both are taken as they come."""
    rng = np.random.default_rng(0)
    emb = rng.normal(size=(40, 8))
    pairs = [(k, k) for k in range(30)] + [(k + 1, k) for k in range(0, 20, 2)]
    grades = np.array([2] * 30 + [1] * 10, dtype=np.uint8)
    data = corpus.embedding_set(emb, emb[:30] + 0.1, pairs, "train", "train", grades=grades)
    assert bool(torch.isfinite(quick(name).fit(data, "i2t").score(corpus.random_batch(dim=8))).all())
