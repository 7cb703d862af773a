"""The reranker in use: which embeddings it refuses."""

import dataclasses

import numpy as np
import pytest
import torch

from rank_xmodal import scorers
from rank_xmodal.errors import UserError
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.scorers import Stack
from rank_xmodal.scorers.context_aware.ranker import RankerConfig
from rank_xmodal.scorers.context_aware.scorer import ContextAware
from rank_xmodal.scorers.folder import save
from rank_xmodal.use.exact_store import ExactStore
from rank_xmodal.use.reranker import Reranker

B32 = {"encoder": "ViT-B-32", "pretrained": "openai", "weights_sha256": "a" * 64}
B16 = {"encoder": "ViT-B-16", "pretrained": "openai", "weights_sha256": "b" * 64}


def untrained(dim=24, **parts):
    scorer = ContextAware()
    scorer.network = scorer.build(RankerConfig(dim=dim, **parts)).eval()
    return scorer


def reranker(encoder, dim=24):
    bank = np.eye(5, dim, dtype=np.float16)
    return Reranker(Stack(untrained(dim), bank), {"encoder": encoder}, torch.device("cpu"))


def unprojected(store):
    prepared, items, _, _ = store.state
    return ExactStore(store.space, dataclasses.replace(prepared, projected=None), items)


def made_by(corpus, encoder):
    data = corpus.planted(images=40)
    return dataclasses.replace(data, meta={**data.meta, **encoder})


def test_embeddings_of_other_weights_are_refused_though_they_are_as_wide(corpus):
    with pytest.raises(UserError, match=r"runs/a: was trained with the encoder ViT-B-32 openai .* by ViT-B-16 openai"):
        reranker(B32).check_made_for(made_by(corpus, B16), "runs/a")


def test_embeddings_of_another_width_are_refused(corpus):
    with pytest.raises(UserError, match="runs/a: takes embeddings 12 wide, those of planted 0 are 24 wide"):
        reranker(B32, dim=12).check_made_for(made_by(corpus, B32), "runs/a")


@pytest.mark.parametrize(("own", "other"), [(B32, B32), ({}, B32), (B32, {}), (None, {})])
def test_the_same_weights_and_weights_nobody_knows_are_taken(corpus, own, other):
    reranker(own).check_made_for(made_by(corpus, other), "runs/a")


def test_a_corpus_is_normalised_block_by_block(monkeypatch):
    ranker = reranker(B32)
    rows = np.random.default_rng(0).normal(size=(10, 24)) * 5
    whole = ranker.index(rows).store.prepared.embeddings
    np.testing.assert_allclose(np.linalg.norm(whole.astype(np.float64), axis=1), 1, atol=1e-3)
    monkeypatch.setattr("rank_xmodal.use.normalise._BLOCK", 4)
    assert np.array_equal(ranker.index(rows).store.prepared.embeddings, whole)
    rows[9] = 0
    with pytest.raises(ValueError, match="embeddings: row 9 is zero or not finite"):
        ranker.index(rows)


def test_a_ranker_without_hubness_searches_without_neighbours():
    rows = np.random.default_rng(0).normal(size=(30, 24))
    plain = Reranker(Stack(untrained(blocks=("concat",)), np.eye(5, 24, dtype=np.float16)), {}, torch.device("cpu"))
    index = plain.index(rows)
    assert index.store.prepared.neighbours.shape == (30, 0)
    assert index.search(rows[:4], k=3).ids[:, 0].tolist() == [0, 1, 2, 3]
    assert reranker(B32).index(rows).store.prepared.neighbours.shape == (30, 5)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"k": 0}, "k=0: must be an integer of 1 or more"),
        ({"k": 2.0}, r"k=2\.0: must be an integer of 1 or more"),
        ({"batch_size": 0}, "batch_size=0: must be an integer of 1 or more"),
        ({"batch_size": 2.5}, r"batch_size=2\.5: must be an integer of 1 or more"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(asked, said):
    rows = np.random.default_rng(0).normal(size=(30, 24))
    with pytest.raises(ValueError, match=said):
        reranker(B32).index(rows).search(rows[:2], **asked)


@pytest.mark.parametrize("blocks", [("concat",), ("concat", "cosine"), ("cosine",), ("concat", "product")])
def test_a_projection_of_the_corpus_changes_no_score(blocks):
    rows = np.random.default_rng(0).normal(size=(30, 24))
    scorer = untrained(blocks=blocks)
    torch.manual_seed(0)
    for weight in scorer.network.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    index = Reranker(Stack(scorer, np.eye(5, 24, dtype=np.float16)), {}, torch.device("cpu")).index(rows)
    bare = dataclasses.replace(index, store=unprojected(index.store))
    np.testing.assert_allclose(index.search(rows[:4]).scores, bare.search(rows[:4]).scores, rtol=1e-4, atol=1e-5)


def test_ids_are_one_for_each_embedding():
    rows = np.random.default_rng(0).normal(size=(4, 24))
    for ids in ([1, 2, 3], [[1], [2], [3], [4]]):
        with pytest.raises(ValueError, match="for 4 embeddings: give one id for each"):
            reranker(B32).index(rows, ids)


def test_a_ranker_survives_the_disk(corpus, tmp_path):
    trained = corpus.train(corpus.data, corpus.lists_of(corpus.data), corpus.chosen(epochs=1))
    save(tmp_path / "run", trained, {"direction": "t2i"}, "# card")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "query_bank.npy",
    ]
    reranker = Reranker.from_pretrained(tmp_path / "run", device="cpu")
    images = np.asarray(corpus.data.image_emb[corpus.data.candidate_rows("t2i", "test")])
    names = [f"image {k}" for k in range(len(images))]
    index = reranker.index(images.astype(np.float32) * 3.0, ids=names)  # any length: it is scaled
    stage = rank_gallery(corpus.data, "t2i", "test", depth=50)
    _, values = corpus.report_of(trained, corpus.data, depth=50)
    hits = index.search(np.asarray(corpus.data.text_emb[stage.lists.query]), k=10)
    first = corpus.data.candidate_rows("t2i", "test")[0]
    owner = corpus.data.relevance["image"].to_numpy()[stage.lists.query] - first
    found = np.array([hit[0] == f"image {o}" for hit, o in zip(hits.ids, owner, strict=True)])
    np.testing.assert_array_equal(found, values["ranker"]["R@1"].numpy() == 1)
    assert hits.ids.shape == hits.scores.shape == (200, 10)
    assert (np.diff(hits.scores, axis=1) <= 0).all()
    with pytest.raises(ValueError, match="k=0"):
        index.search(images, k=0)
    with pytest.raises(ValueError, match=r"\(n, 24\)"):
        index.search(images[:, :5])
    with pytest.raises(ValueError, match="row 1 is zero"):
        reranker.index(np.stack([images[0], np.zeros(24)]))
    (tmp_path / "run" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        Reranker.from_pretrained(tmp_path / "run")
    with pytest.raises(UserError, match="holds no trained ranker"):
        Reranker.from_pretrained(tmp_path)


def test_a_projection_searches_in_its_own_space_and_finds_what_clip_does_not(corpus):
    """Half of the dimensions are noise that CLIP can't tell from the rest: the top list itself is better."""
    stack = corpus.train(corpus.data, corpus.lists, scorers.parse({"scorer": "cca", "device": "cpu"}))
    ranker = Reranker(stack, {}, torch.device("cpu"))
    rows, queries = corpus.data.candidate_rows("t2i", "test"), corpus.data.query_rows("t2i", "test")
    owner = corpus.data.relevance["image"].to_numpy()[queries]
    asked = np.asarray(corpus.data.text_emb[queries])
    found = {}
    for first_stage in ("clip", "own"):
        index = ranker.index(np.asarray(corpus.data.image_emb[rows]), ids=rows, first_stage=first_stage)
        hits = index.search(asked, k=50)
        found[first_stage] = (hits.ids == owner[:, None]).any(axis=1).mean()
        cosine = (hits.cosine[0, 0], asked[0].astype(float) @ corpus.data.image_emb[hits.ids[0, 0]].astype(float))
        assert cosine[0] == pytest.approx(cosine[1], abs=1e-6), "CLIP's cosine, whatever found the candidate"
    assert found["own"] > found["clip"]


def test_a_first_stage_that_nobody_knows_is_told():
    with pytest.raises(ValueError, match="first_stage='Own': name 'clip' or 'own'"):
        reranker(B32).index(np.eye(4, 24), first_stage="Own")


def test_a_scorer_without_a_space_cannot_be_its_own_first_stage():
    with pytest.raises(ValueError, match="Context-Aware Ranker has no space of its own"):
        reranker(B32).index(np.eye(4, 24), first_stage="own")
