"""The inverted softmax against its definition in plain Python."""

import math

import pytest
import torch

from rank_xmodal.evaluation.judging import judge
from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.retrieval.query_bank import TEMPERATURE
from rank_xmodal.scorers.inverted_softmax import InvertedSoftmax
from rank_xmodal.scorers.stack import Stack, rows_of, score_rows


def batch(cosine, near):
    cosine, near = torch.tensor(cosine), torch.tensor(near)
    return ListBatch(torch.zeros(len(cosine), 2), torch.zeros(*cosine.shape, 2), cosine, near, cosine > -9)


def test_it_is_the_logarithm_of_the_papers_probability():
    cosine = [[0.31, 0.28, 0.25], [0.20, 0.33, 0.27]]
    near = [[[0.34, 0.30], [0.22, 0.21], [0.29, 0.10]], [[0.36, 0.35], [0.31, 0.11], [0.25, 0.24]]]
    found = InvertedSoftmax().score(batch(cosine, near))
    for q in range(2):
        for c in range(3):
            total = sum(math.exp(value / TEMPERATURE) for value in near[q][c])
            probability = math.exp(cosine[q][c] / TEMPERATURE) / total
            assert float(found[q, c]) == pytest.approx(TEMPERATURE * math.log(probability), abs=1e-6)


def test_a_hub_loses_to_a_candidate_that_few_ask_for():
    scores = InvertedSoftmax().score(batch([[0.30, 0.28]], [[[0.40, 0.36], [0.20, -math.inf]]]))
    assert scores[0, 1] > scores[0, 0]


def test_missing_neighbours_leave_scores_finite():
    near = [[[-math.inf, -math.inf], [0.2, -math.inf]]]
    assert bool(torch.isfinite(InvertedSoftmax().score(batch([[0.30, 0.28]], near))).all())


def test_it_beats_cosine_where_there_are_hubs(corpus):
    """Over four corpora: with ten neighbours of a few hundred queries one alone is too noisy to tell."""
    gains = []
    for seed in range(4):
        data = corpus.planted(seed=seed)
        gallery = rank_gallery(data, "t2i", "test")
        stack = Stack(InvertedSoftmax(), data.text_emb[data.query_rows("t2i", "train")])
        report, _ = judge(score_rows(rows_of(stack), data, gallery.lists, torch.device("cpu")), gallery)
        gains.append(report["ranker"]["R@1"] - report["clip"]["R@1"])
    assert sum(gains) > 0
