"""Corrections by the whole bank, against their definitions in plain Python, and what they are chosen by."""

import math

import numpy as np
import pytest
import torch

from rank_xmodal import scorers
from rank_xmodal.evaluation.judging import judge
from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.scorers.inverted_softmax import InvertedSoftmax
from rank_xmodal.scorers.query_bank import _reciprocal_ranks
from rank_xmodal.scorers.stack import fit_stack, rows_of, score_rows
from rank_xmodal.scorers.tuned_csls import TunedCSLS
from rank_xmodal.training.crossfit import inner_folds

CPU = torch.device("cpu")
NAMES = ("inverted_softmax", "csls_tuned")


def unit(*shape, seed=0):
    found = np.random.default_rng(seed).normal(size=shape)
    return torch.from_numpy(found / np.linalg.norm(found, axis=-1, keepdims=True)).float()


def batch(query, candidates):
    shape = candidates.shape[:2]
    return ListBatch(query, candidates, torch.zeros(shape), torch.empty(*shape, 0), torch.ones(shape, dtype=torch.bool))


def of(name, strength, bank):
    return scorers.get(name, device="cpu").load({"strength": strength}, {"bank": bank})


def test_the_inverted_softmax_is_the_logarithm_of_the_papers_probability():
    query, candidates, bank = unit(2, 4), unit(2, 3, 4, seed=1), unit(20, 4, seed=2)
    found = of("inverted_softmax", [0.07], bank).score(batch(query, candidates))
    for q in range(2):
        for c in range(3):
            total = sum(math.exp(float(b @ candidates[q, c]) / 0.07) for b in bank)
            probability = math.exp(float(query[q] @ candidates[q, c]) / 0.07) / total
            assert float(found[q, c]) == pytest.approx(0.07 * math.log(probability), abs=1e-5)


def test_tuned_csls_is_the_formula_and_with_k_10_and_a_half_it_is_csls():
    query, candidates, bank = unit(2, 4), unit(2, 3, 4, seed=1), unit(20, 4, seed=2)
    for k, w in ((3, 0.25), (10, 0.5), (100, 1.0)):
        found = of("csls_tuned", [k, w], bank).score(batch(query, candidates))
        for q in range(2):
            for c in range(3):
                near = sorted((float(b @ candidates[q, c]) for b in bank), reverse=True)[:k]
                wanted = float(query[q] @ candidates[q, c]) - w * sum(near) / len(near)
                assert float(found[q, c]) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_the_strength_is_the_best_of_the_inner_folds(corpus, name, direction):
    """Against a plain loop over folds and strengths."""
    data = corpus.data
    fitted = scorers.get(name, device="cpu").fit(data, direction)
    found = {strength: [] for strength in fitted.strengths}
    for rest, held in inner_folds(data):
        bank = torch.from_numpy(np.asarray(data.queries(direction)[rest.query_rows(direction, "train")]))
        asked, offered = held.query_rows(direction, "train"), held.candidate_rows(direction, "train")
        relevant = np.asarray(data.relevance_matrix(direction)[asked][:, offered].todense()) > 0
        table = torch.from_numpy(np.asarray(data.candidates(direction)[offered], np.float32))
        for strength in fitted.strengths:
            one = of(name, strength, bank)
            for row, query in enumerate(asked):
                q = torch.from_numpy(np.asarray(data.queries(direction)[[query]], np.float32))
                scores = one.score(batch(q, table[None]))[0].numpy()
                best = max(scores[relevant[row]])
                found[strength].append(1 / (1 + int(((scores >= best) & ~relevant[row]).sum())))
    means = {strength: np.mean(values) for strength, values in found.items()}
    assert means[fitted.strength] == pytest.approx(max(means.values()), abs=1e-4)
    assert len(fitted.bank) == len(data.query_rows(direction, "train"))


@pytest.mark.parametrize("scorer", [InvertedSoftmax, TunedCSLS])
def test_it_beats_cosine_where_there_are_hubs(corpus, scorer):
    gains = []
    for seed in range(4):
        data = corpus.planted(seed=seed)
        gallery = rank_gallery(data, "t2i", "test")
        stack = fit_stack(scorer(device="cpu"), data, "t2i", device=CPU)
        report, _ = judge(score_rows(rows_of(stack, data), data, gallery.lists, CPU), gallery)
        gains.append(report["ranker"]["R@1"] - report["clip"]["R@1"])
    assert np.mean(gains) > 0.01


def test_ties_count_against_what_is_relevant():
    cosine, relevant = torch.tensor([[0.5, 0.5, 0.1]]), torch.tensor([[True, False, False]])
    assert _reciprocal_ranks(cosine, torch.zeros(3, 1), relevant).tolist() == [[0.5]]
