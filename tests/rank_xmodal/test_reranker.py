"""The reranker in use: which embeddings it refuses."""

import dataclasses

import numpy as np
import pytest
import torch

from rank_xmodal.errors import UserError
from rank_xmodal.ranker import ContextAwareRanker, RankerConfig
from rank_xmodal.reranker import Reranker

B32 = {"encoder": "ViT-B-32", "pretrained": "openai", "weights_sha256": "a" * 64}
B16 = {"encoder": "ViT-B-16", "pretrained": "openai", "weights_sha256": "b" * 64}


def reranker(encoder, dim=24):
    bank = np.eye(5, dim, dtype=np.float16)
    return Reranker(ContextAwareRanker(RankerConfig(dim=dim)), bank, {"encoder": encoder}, torch.device("cpu"))


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
    whole = ranker.index(rows).candidates
    np.testing.assert_allclose(np.linalg.norm(whole.astype(np.float64), axis=1), 1, atol=1e-3)
    monkeypatch.setattr("rank_xmodal.reranker._BLOCK", 4)
    assert np.array_equal(ranker.index(rows).candidates, whole)
    rows[9] = 0
    with pytest.raises(ValueError, match="embeddings: row 9 is zero or not finite"):
        ranker.index(rows)


def test_a_ranker_without_hubness_searches_without_neighbours():
    rows = np.random.default_rng(0).normal(size=(30, 24))
    plain = Reranker(
        ContextAwareRanker(RankerConfig(dim=24, blocks=("concat",))),
        np.eye(5, 24, dtype=np.float16),
        {},
        torch.device("cpu"),
    )
    index = plain.index(rows)
    assert index.neighbours.cosine.shape == (30, 0)
    assert index.search(rows[:4], k=3).ids[:, 0].tolist() == [0, 1, 2, 3]
    assert reranker(B32).index(rows).neighbours.cosine.shape == (30, 5)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"k": 0}, "k=0: must be an integer between 1 and 30"),
        ({"k": 31}, "k=31: must be an integer between 1 and 30"),
        ({"k": 2.0}, r"k=2\.0: must be an integer between 1 and 30"),
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
    model = ContextAwareRanker(RankerConfig(dim=24, blocks=blocks))
    torch.manual_seed(0)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    index = Reranker(model, np.eye(5, 24, dtype=np.float16), {}, torch.device("cpu")).index(rows)
    bare = dataclasses.replace(index, projected=None)
    np.testing.assert_allclose(index.search(rows[:4]).scores, bare.search(rows[:4]).scores, rtol=1e-4, atol=1e-5)


def test_ids_are_one_for_each_embedding():
    rows = np.random.default_rng(0).normal(size=(4, 24))
    for ids in ([1, 2, 3], [[1], [2], [3], [4]]):
        with pytest.raises(ValueError, match="for 4 embeddings: give one id for each"):
            reranker(B32).index(rows, ids)
