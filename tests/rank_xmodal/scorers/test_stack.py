"""A scorer on another one: its score, its space, and that training lists are scored out of fold."""

import numpy as np
import pytest
import torch

from rank_xmodal import scorers
from rank_xmodal.errors import UserError
from rank_xmodal.lists.scoring import score_lists
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.retrieval.query_bank import hubness, neighbours
from rank_xmodal.scorers import Stack
from rank_xmodal.scorers.folder import load, save
from rank_xmodal.scorers.stack import TrainingPart, fit_stack, rows_of, score_rows
from rank_xmodal.training.crossfit import inner_folds

CPU = torch.device("cpu")


def on(corpus, top, base="cca", direction="t2i"):
    lists = corpus.lists_of(corpus.data, direction)
    return fit_stack(
        scorers.get(top, on=base, device="cpu"), corpus.data, direction, base=scorers.get(base, device="cpu"),
        parts=[TrainingPart(lists, corpus.data)], device=CPU,
    )  # fmt: skip


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_csls_on_a_projection_is_csls_in_its_space(corpus, direction):
    data = corpus.data
    stack = on(corpus, "csls", direction=direction)
    gallery = rank_gallery(data, direction, "test")
    found = score_lists(stack.scorer, stack.tensors(data, gallery.lists, CPU))
    space = stack.base.space
    queries, candidates = space.map_queries(data.queries(direction)), space.map_candidates(data.candidates(direction))
    hub = hubness(neighbours(candidates, space.map_queries(stack.bank)).cosine).numpy()
    for q in (0, 7):
        rows = gallery.lists.candidates[q]
        cosine = candidates[rows].astype(float) @ queries[gallery.lists.query[q]].astype(float)
        np.testing.assert_allclose(found[q].numpy(), 2 * cosine - hub[rows], atol=1e-5)


def test_rows_of_a_report_share_what_they_can(corpus, monkeypatch):
    stack = Stack(scorers.get("csls"), corpus.data.text_emb[corpus.data.query_rows("t2i", "train")])
    gallery = rank_gallery(corpus.data, "t2i", "test")
    calls = []
    real = Stack.neighbours
    monkeypatch.setattr(Stack, "neighbours", lambda self, c: (calls.append(self.scorer.name), real(self, c))[1])
    found = score_rows(rows_of(stack, corpus.data), corpus.data, gallery.lists, CPU)
    assert list(found) == ["clip", "csls", "ranker"]
    assert calls == ["clip", "csls"], "hubness is looked up once for both that need it"
    alone = score_lists(stack.scorer, stack.tensors(corpus.data, gallery.lists, CPU))
    assert torch.equal(found["ranker"], alone)


def test_a_ranker_on_a_projection_starts_as_it(corpus):
    """Untrained, the residual is the base's own score, in its own unit."""
    parts = [TrainingPart(corpus.lists, corpus.data)]
    scorer = scorers.get("context_aware", on="centred", device="cpu", epochs=1, lr=1e-12)
    stack = fit_stack(scorer, corpus.data, "t2i", base=scorers.get("centred", device="cpu"), parts=parts, device=CPU)
    gallery = rank_gallery(corpus.data, "t2i", "test")
    tensors = stack.tensors(corpus.data, gallery.lists, CPU)
    assert torch.equal(
        score_lists(stack.scorer, tensors).argsort(dim=1, stable=True), tensors.cosine.argsort(dim=1, stable=True)
    )


def test_a_base_that_learns_pairs_scores_training_lists_out_of_fold(corpus, monkeypatch):
    """Each list is scored by a fit that has met neither its query nor any of its candidates."""
    data = corpus.data
    knew = []
    real = Stack.tensors

    def spied(self, given, lists, device):
        if lists.info.get("split") == "train":
            knew.append((self.bank, lists))
        return real(self, given, lists, device)

    monkeypatch.setattr(Stack, "tensors", spied)
    parts = [TrainingPart(corpus.lists_of(held), rest) for rest, held in inner_folds(data, 3)]
    fit_stack(
        scorers.get("context_aware", on="cca", epochs=1, device="cpu"), data, "t2i",
        base=scorers.get("cca", device="cpu"), parts=parts, device=CPU,
    )  # fmt: skip
    assert len(knew) == 3
    for (bank, lists), part in zip(knew, parts, strict=True):
        known = {row.tobytes() for row in bank}
        assert not known & {row.tobytes() for row in np.asarray(data.text_emb[lists.query])}
        in_fold = set(np.flatnonzero((part.knows.images["split"] == "train").to_numpy()))
        assert in_fold.isdisjoint(lists.candidates[lists.candidates >= 0].tolist())


def test_a_stack_is_saved_and_loaded_whole(corpus, tmp_path):
    stack = on(corpus, "csls", "vsepp")
    save(tmp_path, stack, {"direction": "t2i"}, "card")
    again, facts = load(tmp_path)
    assert facts["base"]["settings"]["scorer"] == "vsepp"
    gallery = rank_gallery(corpus.data, "t2i", "test")
    one, two = (score_lists(s.scorer, s.tensors(corpus.data, gallery.lists, CPU)) for s in (stack, again))
    torch.testing.assert_close(one, two)
    assert again.own_first_stage == "vsepp"


def test_what_cannot_be_stood_on_or_stand_is_refused():
    with pytest.raises(UserError, match="on='csls': has no space that another scorer could stand in"):
        scorers.parse({"scorer": "csls", "on": "csls"})
    with pytest.raises(UserError, match="on='cca': vsepp doesn't look at the score of what it stands on"):
        scorers.parse({"scorer": "vsepp", "on": "cca"})
    with pytest.raises(UserError, match=r"on='vse': no such scorer\. Did you mean 'vsepp'"):
        scorers.parse({"scorer": "csls", "on": "vse"})
