"""What holds for all of them: the registry, learning, the seed, that only train is learnt from, saving and loading."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rank_xmodal import scorers
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.judging import per_query
from rank_xmodal.lists.scoring import score_lists
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.scorers.folder import load, save
from rank_xmodal.scorers.local.heads import HEADS
from rank_xmodal.scorers.projections.base import Projection
from rank_xmodal.scorers.stack import TrainingPart, fit_stack
from rank_xmodal.training.crossfit import inner_folds

CPU = torch.device("cpu")
# Learn from classes, or are judged by them.
OF_CLASSES = ["linear", "posterior", "mlp", "prototype", "hash"]
MAPS = [n for n in scorers.names() if issubclass(scorers.class_of(n), Projection) and n not in OF_CLASSES]
# Learn from pairs what holds for others; the planted images have no like ones to be told by.
LEARN = [name for name in MAPS if name not in ("centred", "neighbours", "itq")]
SMALL_HEAD = {
    "width": 16, "steps": 60, "batch_size": 64, "lr": 1e-2, "dropout": 0.1, "without": 0.1,
}  # fmt: skip
# Settings for a second: the 400 planted training pairs make few steps an epoch.
QUICK = {
    "dcca": {"hidden": 128, "batch_size": 200, "lr": 3e-3, "r1": 1.0, "r2": 1.0},
    "cmpm": {"lr": 2e-3},
    "vsepp": {"lr": 5e-3},
    "context_aware": {"epochs": 2, "batch_size": 32},
    "allrank": {"epochs": 1, "batch_size": 32},
    **{name: {"epochs": 2} for name in ("mlp", "prototype", "hash")},
    **dict.fromkeys(HEADS, SMALL_HEAD),
    "sgraf": {**SMALL_HEAD, "similarity_width": 16, "batch_size": 32},
    "blip_itm": {"top": 2},
    "remote": {"top": 2},
}


@pytest.fixture
def corpus(corpus, image_files, request):
    """The planted corpus, once more with image files, and the settings that only a fixture knows."""
    outside = {
        "blip_itm": lambda: {"model": str(request.getfixturevalue("tiny_blip"))},
        "remote": lambda: {"url": request.getfixturevalue("rerank_server").url},
    }
    paths = [image_files[row % len(image_files)] for row in range(len(corpus.data.images))]
    with_files = dataclasses.replace(corpus.data, images=corpus.data.images.assign(path=paths))
    return SimpleNamespace(
        **vars(corpus), with_files=with_files, outside=lambda name: outside[name]() if name in outside else {}
    )


def quick(name, **values):
    return scorers.get(name, device="cpu", **{**QUICK.get(name, {}), **values})


def data_of(corpus, name):
    """Return the planted set, where a scorer needs tokens or image files one that has them."""
    needs = scorers.get(name).needs
    if name in OF_CLASSES:
        return labelled(corpus.data)
    return corpus.with_tokens if needs.tokens else corpus.with_files if needs.content else corpus.data


def labelled(data):
    """Return the set with three classes, by the sign of an embedding's first entries."""
    classes = np.array(["one", "two", "three"])[(np.asarray(data.image_emb)[:, :2] > 0).sum(1)]
    owner = data.relevance.drop_duplicates("text").set_index("text")["image"].sort_index().to_numpy()
    return dataclasses.replace(
        data, images=data.images.assign(labels=classes), texts=data.texts.assign(labels=classes[owner])
    )


def fitted(corpus, name, direction="t2i", seed=0):
    """Return a stack, fitted as `train` does it without a validation."""
    scorer, data = quick(name, **corpus.outside(name)), data_of(corpus, name)
    if scorer.out_of_fold is None:
        parts = [TrainingPart(corpus.lists_of(data, direction), data)]
    else:
        parts = [TrainingPart(corpus.lists_of(held, direction), rest) for rest, held in inner_folds(data, 2, seed)]
    return fit_stack(scorer, data, direction, parts=parts, seed=seed, device=CPU)


def scores_of(stack, data, direction="t2i", split="test"):
    gallery = rank_gallery(data, direction, split)
    return score_lists(stack.scorer, stack.tensors(data, gallery.lists, CPU)), gallery


def mrr(scores, gallery):
    return float(per_query(scores, gallery)["MRR"].mean())


@pytest.mark.parametrize("name", scorers.names())
def test_the_registry_knows_it_by_its_name(name):
    scorer = scorers.get(name)
    assert scorer.name == scorer.settings.scorer == name
    assert scorer.paper
    assert scorer.label
    assert scorers.get(name) is not scorer


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(UserError, match=r"scorer='vse\+\+': no such scorer\. Did you mean 'vsepp'\?"):
        scorers.get("vse++")
    with pytest.raises(UserError, match=r"scorer='xyz': no such scorer\. Known are clip, centred, csls"):
        scorers.get("xyz")


@pytest.mark.parametrize("name", MAPS)
def test_an_unknown_direction_is_refused(corpus, name):
    with pytest.raises(UserError, match="direction='image'"):
        quick(name).fit(corpus.data, "image")


@pytest.mark.parametrize("name", [*MAPS, "context_aware", "allrank"])
def test_scoring_before_fitting_is_an_error(corpus, name):
    with pytest.raises(RuntimeError, match="fit comes before score"):
        quick(name).score(corpus.random_batch())


def test_what_is_trained_on_lists_says_so_without_any(corpus):
    with pytest.raises(UserError, match="scorer=context_aware is trained on lists"):
        quick("context_aware").fit(corpus.data, "t2i")


@pytest.mark.parametrize("name", scorers.names())
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_scores_are_finite_and_repeat(corpus, name, direction):
    before = torch.get_rng_state()
    (one, gallery), (two, _) = (
        scores_of(fitted(corpus, name, direction, seed=3), data_of(corpus, name), direction) for _ in range(2)
    )
    assert one.shape == (len(gallery.lists), gallery.lists.length)
    assert one.dtype == torch.float32
    assert bool(torch.isfinite(one).all())
    assert torch.equal(one, two)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", scorers.names())
def test_saved_and_loaded_it_scores_the_same(corpus, name, tmp_path):
    stack = fitted(corpus, name)
    save(tmp_path, stack, {"direction": "t2i"}, "a card")
    again, facts = load(tmp_path)
    assert facts["scorer"] == name
    assert again.scorer.settings == stack.scorer.settings
    one, two = (scores_of(which, data_of(corpus, name))[0] for which in (again, stack))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", scorers.names())
def test_it_needs_no_more_than_it_says(corpus, name):
    """What `needs` leaves out may be anything: the scores stay."""
    stack = fitted(corpus, name)
    needs, data = stack.scorer.needs, data_of(corpus, name)
    batch, _ = stack.tensors(data, rank_gallery(data, "t2i", "test").lists, CPU).batch(torch.arange(5))
    projected = stack.scorer.project(torch.from_numpy(np.array(data.image_emb)))
    whole = None if projected is None else projected[batch.rows]
    batch = dataclasses.replace(batch, projected=whole)
    bare = dataclasses.replace(
        batch,
        cosine=batch.cosine if needs.base else torch.full_like(batch.cosine, torch.nan),
        neighbour_cosine=batch.neighbour_cosine
        if needs.neighbours
        else torch.full((*batch.cosine.shape, 3), torch.nan),
        candidates=batch.candidates if needs.candidates else batch.candidates[..., :0],
    )
    torch.testing.assert_close(stack.scorer.score(bare), stack.scorer.score(batch))


@pytest.mark.parametrize(
    "name", ["dcca", "cmpm", "vsepp", "mlp", "prototype", "hash", "context_aware", "allrank", *HEADS]
)
def test_another_seed_gives_other_scores(corpus, name):
    one, two = (scores_of(fitted(corpus, name, seed=seed), data_of(corpus, name))[0] for seed in (0, 1))
    assert not torch.equal(one, two)


@pytest.mark.parametrize("name", [*LEARN, *HEADS])
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_it_learns_the_planted_corpus(corpus, name, direction):
    found, gallery = scores_of(fitted(corpus, name, direction), data_of(corpus, name), direction)
    assert mrr(found, gallery) > mrr(torch.from_numpy(gallery.lists.cosine), gallery) + 0.03


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_its_space_ranks_as_its_scores_do(corpus, name, direction):
    stack = fitted(corpus, name, direction)
    gallery = rank_gallery(corpus.data, direction, "test", depth=20, space=stack.scorer.space, first_stage=name)
    scores = score_lists(stack.scorer, stack.tensors(corpus.data, gallery.lists, CPU))
    assert bool((scores[:, :-1] >= scores[:, 1:] - 1e-6).all())
    assert gallery.lists.info["first_stage"] == name


@pytest.mark.parametrize("name", LEARN)
def test_a_validation_helps_on_its_own_lists(corpus, name):
    held_out = corpus.held_out(corpus.data, "t2i")
    plain, chosen = (quick(name).fit(corpus.data, "t2i", validation=v) for v in (None, held_out))
    found = [mrr(score_lists(scorer, held_out.tensors), held_out.gallery) for scorer in (plain, chosen)]
    assert found[1] >= found[0] - 1e-6


@pytest.mark.parametrize("name", MAPS)
def test_nothing_may_be_chosen_by_the_test_split(corpus, name):
    with pytest.raises(ValueError, match="of the split 'test', by which nothing may be chosen: pass 'val'"):
        quick(name).fit(corpus.data, "t2i", validation=corpus.held_out(corpus.data, "t2i", "test"))


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


@pytest.mark.parametrize("name", MAPS)
def test_nothing_but_train_is_learnt_from(corpus, name):
    batch = corpus.random_batch(dim=24)
    one, two = (quick(name).fit(data, "t2i").score(batch) for data in (corpus.data, corrupted(corpus.data)))
    assert torch.equal(one, two)


@pytest.mark.parametrize("name", MAPS)
def test_padding_changes_no_other_score(corpus, name):
    scorer, batch = quick(name).fit(corpus.data, "t2i"), corpus.random_batch(dim=24)
    torch.testing.assert_close(scorer.score(corpus.pad(batch))[:, :7], scorer.score(batch))


@pytest.mark.parametrize("name", MAPS)
def test_many_to_many_pairs_and_grades(corpus, name):
    """A caption of two images and an image without captions: both are taken as they come."""
    rng = np.random.default_rng(0)
    emb = rng.normal(size=(40, 8))
    pairs = [(k, k) for k in range(30)] + [(k + 1, k) for k in range(0, 20, 2)]
    grades = np.array([2] * 30 + [1] * 10, dtype=np.uint8)
    data = corpus.embedding_set(emb, emb[:30] + 0.1, pairs, "train", "train", grades=grades)
    assert bool(torch.isfinite(quick(name).fit(data, "i2t").score(corpus.random_batch(dim=8))).all())
