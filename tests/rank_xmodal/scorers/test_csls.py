"""CSLS against its formula in plain Python."""

import math

import numpy as np
import pytest
import torch

from rank_xmodal.evaluation.judging import judge
from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.retrieval.query_bank import neighbours
from rank_xmodal.scorers.csls import CSLS
from rank_xmodal.scorers.stack import Stack, rows_of, score_rows


def batch(cosine, near):
    cosine, near = torch.tensor(cosine), torch.tensor(near)
    return ListBatch(torch.zeros(len(cosine), 2), torch.zeros(*cosine.shape, 2), cosine, near, cosine > -9)


def test_hand_made_case():
    """The first candidate has the higher cosine but is near to every query: CSLS turns the order."""
    scores = CSLS().score(batch([[0.30, 0.28]], [[[0.40, 0.36], [0.20, -math.inf]]]))
    assert scores[0].tolist() == pytest.approx([0.60 - 0.38, 0.56 - 0.20])


def test_a_candidate_without_neighbours_keeps_its_cosine():
    assert CSLS().score(batch([[0.3]], [[[-math.inf]]]))[0].tolist() == pytest.approx([0.6])


def test_random_lists_equal_the_formula():
    rng = np.random.default_rng(0)
    queries, candidates, bank = (rng.normal(size=(n, 8)) for n in (4, 9, 25))
    queries, candidates, bank = (
        (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16) for x in (queries, candidates, bank)
    )
    cosine = queries.astype(np.float32) @ candidates.astype(np.float32).T
    near = neighbours(candidates, bank).cosine
    found = CSLS().score(batch(cosine, near.expand(4, 9, 10).numpy()))
    for q in range(4):
        for c in range(9):
            to_bank = sorted((float(np.dot(candidates[c].astype(float), b.astype(float))) for b in bank), reverse=True)
            assert float(found[q, c]) == pytest.approx(2 * float(cosine[q, c]) - sum(to_bank[:10]) / 10, abs=1e-5)


def test_it_beats_cosine_where_there_are_hubs(corpus):
    data = corpus.planted(seed=5)
    gallery = rank_gallery(data, "t2i", "test")
    stack = Stack(CSLS(), data.text_emb[data.query_rows("t2i", "train")])
    report, _ = judge(score_rows(rows_of(stack, data), data, gallery.lists, torch.device("cpu")), gallery)
    assert report["csls"]["R@1"] > report["clip"]["R@1"]
    assert report["ranker"] == report["csls"]
