"""Scores in their shared form against the scorers that they come from."""

import numpy as np
import pytest
import torch

from rank_xmodal.retrieval.query_bank import hubness, neighbours
from rank_xmodal.scorers.combined import evidence
from rank_xmodal.scorers.combined.evidence import ALONE, CORRECTED, FEATURES, SCORES, Evidence
from rank_xmodal.scorers.projections.centred import Centred
from rank_xmodal.scorers.projections.convex import Convex
from rank_xmodal.scorers.projections.gaussian import Gaussian
from rank_xmodal.scorers.projections.vsepp import VSEPP

CPU = torch.device("cpu")


def own(data, direction, name):
    """The scorer that a score comes from, fitted by itself."""
    made = {
        "centred": lambda: Centred(device="cpu"),
        "gaussian": lambda: Gaussian(device="cpu"),
        "convex, strong": lambda: Convex(strengths=(300.0,), device="cpu"),
        "vsepp": lambda: VSEPP(device="cpu"),
    }[name]()
    return made.fit(data, direction)


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_every_score_is_that_of_its_scorer(corpus, direction):
    data = corpus.data
    found = Evidence.fit(data, direction, 0, CPU)
    query = torch.from_numpy(np.asarray(data.queries(direction)[:4], np.float32))
    candidates = torch.from_numpy(np.asarray(data.candidates(direction)[:9], np.float32)).expand(4, 9, 24)
    table = found.of_candidates(candidates[0])
    features = found.features(query, candidates, table.expand(4, 9, -1))
    assert features.shape == (4, 9, len(FEATURES))
    place = FEATURES.index
    torch.testing.assert_close(features[..., place("cosine")], torch.einsum("bd,bld->bl", query, candidates))
    for name in ("centred", "gaussian", "convex, strong", "vsepp"):
        scorer = own(data, direction, name)
        expected = scorer.map_queries(query.numpy()) @ scorer.map_candidates(candidates[0].numpy()).T
        whole = features[..., place(name)]
        if name == "gaussian":
            whole = whole - features[..., place("gaussian, own")]
        np.testing.assert_allclose(whole.numpy(), expected, rtol=2e-3, atol=2e-4, err_msg=name)
        # Hubness in the same space, and CSLS.
        bank = scorer.map_queries(found.bank.numpy())
        near = np.sort(scorer.map_candidates(candidates[0].numpy()) @ bank.T, axis=1)[:, ::-1][:, :10].mean(1)
        np.testing.assert_allclose(
            features[0, :, place(f"{name}, hubness")].numpy(), near, rtol=2e-3, atol=2e-4, err_msg=name
        )
        np.testing.assert_allclose(
            features[..., place(f"{name}, CSLS")].numpy(), expected - near / 2, rtol=5e-3, atol=5e-4, err_msg=name
        )
    hub = hubness(neighbours(data.candidates(direction)[:9], found.bank.numpy().astype(np.float16)).cosine)
    torch.testing.assert_close(features[0, :, place("cosine, hubness")], hub, rtol=1e-3, atol=1e-4)


def test_names_are_as_many_as_numbers(corpus):
    assert len(FEATURES) == len(SCORES) + len(ALONE) + len(CORRECTED) == len(set(FEATURES))


def test_a_corpus_is_worked_through_in_blocks(corpus, monkeypatch):
    found = Evidence.fit(corpus.data, "t2i", 0, CPU)
    table = torch.from_numpy(np.array(corpus.data.image_emb))
    whole = found.of_candidates(table)
    monkeypatch.setattr(evidence, "_BLOCK", 3 * len(found.bank))
    torch.testing.assert_close(found.of_candidates(table), whole, rtol=1e-4, atol=1e-5)


def test_what_was_fitted_serves_both_directions_and_all_losses(corpus, monkeypatch):
    evidence._fitted.cache_clear()
    calls = []
    real = Convex.fit
    monkeypatch.setattr(Convex, "fit", lambda self, *a, **k: (calls.append(1), real(self, *a, **k))[1])
    for direction in ("t2i", "i2t", "t2i"):
        Evidence.fit(corpus.data, direction, 0, CPU)
    assert len(calls) == 1
    Evidence.fit(corpus.planted(seed=9), "t2i", 0, CPU)
    assert len(calls) == 2
