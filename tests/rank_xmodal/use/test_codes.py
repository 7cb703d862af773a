"""Codes as a first stage: what finds candidates, what the ranker on top sees, and what is kept of a corpus."""

import dataclasses

import numpy as np
import pytest
import torch

from rank_xmodal import scorers
from rank_xmodal.retrieval.exact import exact_cosine
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.retrieval.hamming_retriever import HammingRetriever
from rank_xmodal.retrieval.quantisers import itq
from rank_xmodal.scorers import Stack
from rank_xmodal.scorers.stack import fit_stack
from rank_xmodal.use.exact_store import ExactStore
from rank_xmodal.use.reranker import Reranker

CPU = torch.device("cpu")
QUICK = {"device": "cpu", "epochs": 30, "hidden": 128, "lr": 5e-3, "bits": 64}


def hashed(data, **values):
    """Return a stack of codes alone."""
    return fit_stack(scorers.get("hash", **{**QUICK, **values}), data, "t2i", device=CPU)


def reranker(stack):
    return Reranker(stack, {"direction": "t2i"}, CPU)


@pytest.fixture(scope="module")
def place(corpus):
    """Return the planted set, what asks and what is ranked in its split test, and rankers that stand on codes."""
    data = corpus.data
    rows = data.candidate_rows("t2i", "test")
    asked = np.asarray(data.text_emb[data.query_rows("t2i", "test")])
    alone = hashed(data)
    stacks = {"hash": alone, "csls": Stack(scorers.get("csls", device="cpu"), alone.bank, alone.scorer)}
    rankers = {name: reranker(stack) for name, stack in stacks.items()}
    return data, rows, asked, np.asarray(data.image_emb[rows]), rankers


def products(space, asked, images):
    return space.map_queries(asked) @ space.map_candidates(images).T


def assert_clips_cosine(hits, asked, images):
    """Whatever found the candidate; a vector that is scaled to length 1 again may be rounded again."""
    expected = exact_cosine(asked, images, np.arange(len(asked)), hits.rows)
    np.testing.assert_allclose(hits.cosine, expected, atol=2e-4)


@pytest.mark.parametrize("name", ["hash", "csls"])
def test_an_index_searches_packed_codes_and_finds_what_evaluate_ranks(place, name):
    data, rows, asked, images, rankers = place
    stack = rankers[name].stack
    index = rankers[name].index(images, ids=rows, first_stage="own")
    assert isinstance(index.store.retriever, HammingRetriever)
    assert images.astype(np.float32).nbytes == 24 * 32 // 64 * index.store.retriever.codes.nbytes
    hits = index.search(asked, k=20, depth=20)
    stage = rank_gallery(data, "t2i", "test", 20, space=stack.own_space, first_stage=stack.own_first_stage)
    np.testing.assert_array_equal(np.sort(hits.ids, axis=1), np.sort(stage.lists.candidates, axis=1))
    product = products(stack.own_space, asked, images)
    order = np.argsort(-product, axis=1, kind="stable")[:, :20]
    np.testing.assert_array_equal(np.sort(rows[order], axis=1), np.sort(hits.ids, axis=1))
    assert_clips_cosine(hits, asked, images)
    if name == "hash":  # its score is the first stage's, so the order stays, ties by row
        np.testing.assert_array_equal(hits.ids, stage.lists.candidates)
        np.testing.assert_array_equal(hits.scores, np.take_along_axis(product, order, 1))


@pytest.mark.parametrize("first_stage", ["clip", "own"])
def test_a_scorer_on_codes_sees_their_product(place, first_stage, monkeypatch):
    _, _, asked, images, rankers = place
    ranker = rankers["csls"]
    index = ranker.index(images, first_stage=first_stage)
    assert index.store.prepared.base.dtype == np.uint8, "eight bytes an item, not the signs as floats"
    assert (index.store.prepared.base is index.store.prepared.first) == (first_stage == "own")
    seen, score = [], ranker.stack.scorer.score
    monkeypatch.setattr(ranker.stack.scorer, "score", lambda batch: (seen.append(batch), score(batch))[1])
    index.search(asked, k=10)
    rows, found = (torch.cat([getattr(batch, key) for batch in seen]).numpy() for key in ("rows", "cosine"))
    np.testing.assert_array_equal(found, np.take_along_axis(products(ranker.stack.space, asked, images), rows, 1))


def test_what_a_hash_keeps_of_each_candidate_is_a_byte_a_bit(place):
    _, _, asked, images, rankers = place
    index = rankers["hash"].index(images, first_stage="own")
    assert index.store.prepared.projected.dtype == np.int8
    prepared, items, _, _ = index.store.state
    assert prepared.base is None, "CLIP's own space needs no copy"
    bare = dataclasses.replace(
        index, store=ExactStore(index.space, dataclasses.replace(prepared, projected=None), items)
    )
    np.testing.assert_array_equal(index.search(asked).scores, bare.search(asked).scores)


def test_a_ranker_on_codes_is_ahead_of_them_alone(corpus, place):
    data, rows, asked, images, rankers = place
    owner = data.relevance["image"].to_numpy()[data.query_rows("t2i", "test")]
    found = {
        name: (ranker.index(images, ids=rows, first_stage="own").search(asked, k=1).ids[:, 0] == owner).mean()
        for name, ranker in rankers.items()
    }
    clip = corpus.held_out(data, "t2i", "test").gallery.lists
    first = (clip.candidates[:, 0] == owner).mean()
    assert found["csls"] >= found["hash"] > first


def test_a_quantiser_may_find_what_any_ranker_puts_in_order(place):
    data, _, asked, images, rankers = place
    space = itq(np.asarray(data.image_emb[data.candidate_rows("t2i", "train")]), 24)
    index = rankers["csls"].index(images, first_stage=space)
    assert isinstance(index.store.retriever, HammingRetriever)
    rows, _ = index.store.retriever.top(asked, 15)
    hits = index.search(asked, k=15, depth=15)
    np.testing.assert_array_equal(np.sort(hits.rows, axis=1), np.sort(rows, axis=1))
    assert (hits.rows != rows).any()
    assert_clips_cosine(hits, asked, images)


def test_where_sides_are_not_aligned_the_product_of_codes_stands_for_the_cosine(corpus):
    data = corpus.planted(images=120)
    kinds = dataclasses.replace(
        data,
        image_emb=np.asarray(data.image_emb, np.float32),
        text_emb=np.asarray(data.text_emb[:, :9], np.float32),
        meta={**data.meta, "aligned": False},
    )
    ranker = reranker(hashed(kinds, bits=16, epochs=2))
    index = ranker.index(kinds.image_emb)
    hits = index.search(kinds.text_emb[:7], k=12)
    assert isinstance(index.store.retriever, HammingRetriever)
    product = products(ranker.stack.own_space, kinds.text_emb[:7], kinds.image_emb)
    order = np.argsort(-product, axis=1, kind="stable")[:, :12]
    np.testing.assert_array_equal(hits.rows, order)
    np.testing.assert_array_equal(hits.cosine, np.take_along_axis(product, order, 1))
    assert set(np.unique(hits.cosine)) <= set(range(-16, 17, 2))
