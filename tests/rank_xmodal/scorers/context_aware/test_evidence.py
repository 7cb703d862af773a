"""Scores in their shared form against the scorers that they come from."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rank_xmodal.data import kept_fits
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.lists.list_tensors import ListTensors
from rank_xmodal.retrieval.query_bank import Neighbours as BankNeighbours
from rank_xmodal.retrieval.query_bank import hubness, neighbours
from rank_xmodal.scorers.context_aware import combine, evidence, slow_fits
from rank_xmodal.scorers.context_aware.evidence import ALONE, CORRECTED, FEATURES, SCORES, Evidence
from rank_xmodal.scorers.projections.centred import Centred
from rank_xmodal.scorers.projections.convex import Convex
from rank_xmodal.scorers.projections.gaussian import Gaussian
from rank_xmodal.scorers.projections.neighbours import Neighbours
from rank_xmodal.scorers.projections.vsepp import VSEPP

CPU = torch.device("cpu")


def own(data, direction, name):
    """The scorer that a score comes from, fitted by itself."""
    made = {
        "centred": lambda: Centred(device="cpu"),
        "gaussian": lambda: Gaussian(device="cpu"),
        "convex, strong": lambda: Convex(strengths=(300.0,), device="cpu"),
        "vsepp": lambda: VSEPP(device="cpu"),
        "neighbours": lambda: Neighbours(device="cpu"),
    }[name]()
    return made.fit(data, direction)


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_every_score_is_that_of_its_scorer(corpus, direction):
    data = corpus.data
    found = Evidence.fit(data, direction, 0, CPU)
    query = torch.from_numpy(np.asarray(data.queries(direction)[:4], np.float32))
    rows = data.candidate_rows(direction, "test")[:9]
    candidates = torch.from_numpy(np.asarray(data.candidates(direction)[rows], np.float32)).expand(4, 9, 24)
    table = found.of_candidates(candidates[0])
    features = found.features(query, candidates, table.expand(4, 9, -1))
    assert features.shape == (4, 9, len(FEATURES))
    place = FEATURES.index
    torch.testing.assert_close(features[..., place("cosine")], torch.einsum("bd,bld->bl", query, candidates))
    for name in ("centred", "gaussian", "convex, strong", "vsepp", "neighbours"):
        scorer = own(data, direction, name)
        expected = scorer.map_queries(query.numpy()) @ scorer.map_candidates(candidates[0].numpy()).T
        whole = features[..., place(name)]
        if name == "gaussian":
            whole = whole - features[..., place("gaussian, own")]
        np.testing.assert_allclose(whole.numpy(), expected, rtol=2e-3, atol=2e-4, err_msg=name)
        # Hubness in the same space, and CSLS.
        bank = scorer.map_queries(found.bank.float().numpy())
        near = np.sort(scorer.map_candidates(candidates[0].numpy()) @ bank.T, axis=1)[:, ::-1][:, :10].mean(1)
        np.testing.assert_allclose(
            features[0, :, place(f"{name}, hubness")].numpy(), near, rtol=2e-3, atol=2e-4, err_msg=name
        )
        np.testing.assert_allclose(
            features[..., place(f"{name}, CSLS")].numpy(), expected - near / 2, rtol=5e-3, atol=5e-4, err_msg=name
        )
    hub = hubness(neighbours(data.candidates(direction)[rows], found.bank.numpy().astype(np.float16)).cosine)
    torch.testing.assert_close(features[0, :, place("cosine, hubness")], hub, rtol=1e-3, atol=1e-4)


def test_names_are_as_many_as_numbers(corpus):
    assert len(FEATURES) == len(SCORES) + len(ALONE) + len(CORRECTED) == len(set(FEATURES))


def test_a_corpus_is_worked_through_in_blocks(corpus, monkeypatch):
    found = Evidence.fit(corpus.data, "t2i", 0, CPU)
    table = torch.from_numpy(np.array(corpus.data.image_emb))
    whole = found.of_candidates(table)
    monkeypatch.setattr(evidence, "_BLOCK", 3 * len(found.bank))
    torch.testing.assert_close(found.of_candidates(table), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_lists_get_the_features_of_their_pairs_from_candidates_that_come_in_blocks_once(corpus, direction, monkeypatch):
    data = corpus.data
    found = Evidence.fit(data, direction, 0, CPU)
    lists = corpus.lists_of(data, direction)
    lists.candidates[3, 2:5] = lists.candidates[0, 7:] = -1  # padding, in the middle and at the end
    tensors = ListTensors.gather(data, lists, lambda rows: BankNeighbours.none(len(rows)), CPU, in_bank=True)
    asked, real = [], Evidence.of_candidates

    def counted(self, candidates):
        asked.append(candidates)
        return real(self, candidates)

    monkeypatch.setattr(Evidence, "of_candidates", counted)
    monkeypatch.setattr(combine, "_BLOCK", 50)
    features = combine.held_out_features(found, tensors)
    assert max(map(len, asked)) == 50
    assert torch.equal(torch.cat(asked), tensors.candidates)
    batch, _ = tensors.batch(torch.arange(len(tensors)))
    alone = real(found, batch.candidates.flatten(0, 1)).unflatten(0, batch.mask.shape)
    expected = found.features(batch.query, batch.candidates, alone)
    assert features.shape == expected.shape
    torch.testing.assert_close(features[batch.mask], expected[batch.mask], rtol=1e-4, atol=1e-5)


def test_what_was_fitted_serves_both_directions_and_all_losses(corpus, monkeypatch):
    calls = []
    real = Convex.fit
    monkeypatch.setattr(Convex, "fit", lambda self, *a, **k: (calls.append(1), real(self, *a, **k))[1])
    data = corpus.planted(seed=8)
    for direction in ("t2i", "i2t", "t2i"):
        Evidence.fit(data, direction, 0, CPU)
    assert len(calls) == 1
    Evidence.fit(corpus.planted(seed=9), "t2i", 0, CPU)
    assert len(calls) == 2


def test_a_training_candidate_in_a_corpus_is_no_hub_by_its_own_queries_and_no_answer_to_itself(corpus):
    """What it is told of a training item is what it would be told had the item's own pair not been there."""
    data = corpus.data
    found = Evidence.fit(data, "t2i", 0, CPU)
    rows = data.candidate_rows("t2i", "train")[:5]
    table = found.of_candidates(torch.from_numpy(np.asarray(data.image_emb[rows])))
    bank_rows = data.query_rows("t2i", "train")
    asked = np.asarray(data.relevance_matrix("t2i")[bank_rows][:, rows].todense()) > 0
    cosine = np.asarray(data.image_emb[rows], np.float32) @ found.bank.float().numpy().T
    near = np.sort(np.where(asked.T, -np.inf, cosine), axis=1)[:, ::-1][:, :10].mean(1)
    place = 24 + 6
    np.testing.assert_allclose(table[:, place].numpy(), near, rtol=1e-3, atol=1e-4)
    assert (near < np.sort(cosine, axis=1)[:, ::-1][:, :10].mean(1) - 1e-3).any()
    # Without itself among the known.
    image = torch.from_numpy(np.asarray(data.image_emb[rows[0]], np.float32))
    centred = torch.nn.functional.normalize(image - found.candidate_mean, dim=0)
    like = found.known.float() @ centred
    others = like.argsort(descending=True)[1:51]
    weight = torch.softmax(10 * like[others], 0)
    answer = torch.nn.functional.normalize(weight @ found.answers.float()[others], dim=0)
    torch.testing.assert_close(table[0, :24], answer, rtol=1e-3, atol=1e-3)


def test_one_pair_is_enough_to_be_fitted_and_says_nothing(corpus):
    one = corpus.data.candidate_rows("t2i", "train")[:1]
    images = corpus.data.images.assign(split=np.where(np.arange(len(corpus.data.images)) == one[0], "train", "test"))
    mine = corpus.data.relevance["text"][corpus.data.relevance["image"] == one[0]].to_numpy()
    texts = corpus.data.texts.assign(split=np.where(np.isin(np.arange(len(corpus.data.texts)), mine), "train", "test"))
    data = replace(corpus.data, images=images, texts=texts, meta={**corpus.data.meta, "fingerprint": "one pair"})
    found = Evidence.fit(data, "t2i", 0, CPU)
    assert torch.isfinite(found.of_candidates(torch.from_numpy(np.array(data.image_emb)))).all()


def test_what_takes_its_time_is_kept_in_the_set_and_made_again_where_it_was_cut_short(corpus, tmp_path, monkeypatch):
    data = corpus.planted(seed=10).write(tmp_path / "set")
    first = slow_fits.slow_fits(data, 0, "cpu")
    (kept,) = (tmp_path / "set" / "scores").iterdir()
    calls = []
    real = slow_fits._made
    monkeypatch.setattr(slow_fits, "_made", lambda *of: (calls.append(1), real(*of))[1])
    again = slow_fits.slow_fits(EmbeddingSet.open(tmp_path / "set"), 0, "cpu")
    assert not calls
    assert all(torch.equal(again[name], value) for name, value in first.items())
    slow_fits.slow_fits(data, 1, "cpu")
    assert len(calls) == 1, "another seed is another fit"
    kept.write_bytes(kept.read_bytes()[:1_000])
    mended = slow_fits.slow_fits(data, 0, "cpu")
    assert len(calls) == 2
    assert all(torch.equal(mended[name], value) for name, value in first.items())
    monkeypatch.setattr(kept_fits, "digest_of", lambda code: "another version")
    slow_fits.slow_fits(data, 0, "cpu")
    assert len(calls) == 3


def test_twins_among_the_training_items_are_each_other_s_own(corpus):
    """A candidate that looks like two training items is told by neither's queries."""
    data = corpus.data
    twin = np.array(data.image_emb)
    rows = data.candidate_rows("t2i", "train")[:2]
    twin[rows[1]] = twin[rows[0]]
    data = replace(data, image_emb=twin, meta={**data.meta, "fingerprint": "twins"})
    found = Evidence.fit(data, "t2i", 0, CPU)
    like = torch.zeros(1, len(found.known))
    like[0, :2] = 1.0
    itself, asked = found._own(like)
    assert itself[0, :2].all()
    assert itself.sum() == 2
    of_both = np.isin(data.relevance.set_index("text")["image"][data.query_rows("t2i", "train")].to_numpy(), rows)
    assert np.array_equal(asked[0].numpy(), of_both)


def test_a_set_that_can_not_be_written_to_is_fitted_all_the_same(corpus, tmp_path):
    data = corpus.planted(seed=11).write(tmp_path / "set")
    (tmp_path / "set" / "scores").write_text("in the way")
    assert slow_fits.slow_fits(data, 0, "cpu")["moves"].shape[-1] == data.dim
