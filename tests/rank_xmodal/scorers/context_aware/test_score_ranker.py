"""The ranker over scores: nothing is learnt from what it is judged by, nothing gained where there is nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rank_xmodal import scorers
from rank_xmodal.errors import UserError
from rank_xmodal.lists.list_tensors import ListTensors
from rank_xmodal.lists.scoring import score_lists
from rank_xmodal.metrics.mrr import mrr
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.scorers.context_aware import combine
from rank_xmodal.scorers.context_aware.evidence import Evidence
from rank_xmodal.scorers.context_aware.scorer import ContextAware
from rank_xmodal.scorers.stack import TrainingPart, fit_stack
from rank_xmodal.training.crossfit import inner_folds
from rank_xmodal.training.watch import Watch

CPU = torch.device("cpu")


def fitted(corpus, data, direction="t2i", folds=3, **values):
    parts = [TrainingPart(corpus.lists_of(held, direction), rest) for rest, held in inner_folds(data, folds)]
    return fit_stack(scorers.get("context_aware", device="cpu", **values), data, direction, parts=parts, device=CPU)


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
@pytest.mark.parametrize("loss", ["listnet", "lambdarank", "ranknet", "neuralndcg"])
def test_it_beats_clip_and_csls_on_the_planted_corpus(corpus, direction, loss):
    report, _ = corpus.report_of(fitted(corpus, corpus.data, direction, loss=loss), corpus.data, direction)
    assert report["ranker"]["R@1"] > report["clip"]["R@1"] + 0.1
    assert report["ranker"]["R@1"] > report["csls"]["R@1"] + 0.05


@pytest.mark.parametrize("loss", ["listnet", "lambdarank"])
def test_pairs_put_together_at_random_teach_it_nothing(corpus, loss, monkeypatch):
    """Maps of random pairs look splendid on their own pairs; on held-out ones they don't, and get no weight."""
    data = corpus.data
    train = (data.texts["split"] == "train").to_numpy()[data.relevance["text"]]
    relevance = data.relevance.copy()
    relevance.loc[train, "image"] = np.random.default_rng(0).permutation(relevance["image"][train].to_numpy())
    shuffled = replace(data, relevance=relevance, meta={**data.meta, "fingerprint": "shuffled"})
    stack = fitted(corpus, shuffled, loss=loss)
    assert stack.scorer.network.penalty >= 30
    report, _ = corpus.report_of(stack, data)
    monkeypatch.setattr(combine, "choose", lambda held, *rest: (np.inf, np.zeros(held.z.shape[-1])))
    base, _ = corpus.report_of(fitted(corpus, shuffled, loss=loss), data)
    assert report["ranker"]["R@1"] <= base["ranker"]["R@1"] + 0.02


def test_scored_by_maps_that_have_met_them_random_pairs_would_teach_a_great_deal(corpus, monkeypatch):
    """What cross-fitting is for: the lists look solved, and the maps are believed."""
    data = corpus.data
    lists = [TrainingPart(corpus.lists_of(held), rest) for rest, held in inner_folds(data, 3)]
    everything = replace(data, meta={**data.meta, "fingerprint": "all of it"})
    real, ranks = combine.choose, []

    def seen(held, *rest):
        ranks.append(float(mrr(held.base, held.labels).mean()))
        return real(held, *rest)

    monkeypatch.setattr(combine, "choose", seen)
    for parts in (lists, [replace(part, knows=everything) for part in lists]):
        fit_stack(scorers.get("context_aware", device="cpu"), data, "t2i", parts=parts, device=CPU)
    honest, leaking = ranks
    assert leaking > honest + 0.02


def test_lists_that_bring_their_features_bring_no_embeddings_of_candidates(corpus, monkeypatch):
    """At a million images they were most of a training's memory, and nobody looked at them."""
    real, given = ContextAware.fit, []

    def seen(self, *args, lists, **keywords):
        given.append(lists)
        return real(self, *args, lists=lists, **keywords)

    monkeypatch.setattr(ContextAware, "fit", seen)
    fitted(corpus, corpus.data)
    (lists,) = given
    assert lists.features is not None
    assert lists.candidates.shape[0] > 0
    assert lists.candidates.untyped_storage().nbytes() == 0


def test_scores_are_fitted_before_the_tables_of_the_lists_stand_beside_the_fits(corpus, monkeypatch):
    done, fit, gather = [], Evidence.fit.__func__, ListTensors.gather.__func__
    monkeypatch.setattr(Evidence, "fit", classmethod(lambda *given: (done.append("fit"), fit(*given))[1]))
    monkeypatch.setattr(
        ListTensors, "gather", classmethod(lambda *given, **named: (done.append("gather"), gather(*given, **named))[1])
    )
    fitted(corpus, corpus.data, folds=2)
    assert done == ["fit", "gather"] * 2 + ["fit"]


def test_a_network_on_top_starts_as_the_combination_and_learns(corpus):
    parts = [TrainingPart(corpus.lists_of(held), rest) for rest, held in inner_folds(corpus.data, 3)]
    linear = fit_stack(scorers.get("context_aware", device="cpu"), corpus.data, "t2i", parts=parts, device=CPU)
    gallery = rank_gallery(corpus.data, "t2i", "val")
    found = {}
    for epochs in (1, 5):
        scorer = scorers.get("context_aware", device="cpu", layers=1, lr=3e-3, epochs=epochs, dropout=0.0)
        watch = Watch(last_epoch=0 if epochs == 1 else None)
        stack = fit_stack(scorer, corpus.data, "t2i", parts=parts, validation=gallery, device=CPU, watch=watch)
        found[epochs] = score_lists(stack.scorer, stack.tensors(corpus.data, gallery.lists, CPU))
        assert stack.scorer.history[0]["epoch"] == 0
    expected = score_lists(linear.scorer, linear.tensors(corpus.data, gallery.lists, CPU))
    torch.testing.assert_close(found[1], expected)
    assert len(stack.scorer.history) == 6
    assert stack.scorer.history[-1]["loss"] < stack.scorer.history[1]["loss"]


def test_the_linear_ranker_says_how_it_did_on_validation(corpus):
    parts = [TrainingPart(corpus.lists_of(held), rest) for rest, held in inner_folds(corpus.data, 3)]
    gallery = rank_gallery(corpus.data, "t2i", "val")
    stack = fit_stack(
        scorers.get("context_aware", device="cpu"), corpus.data, "t2i", parts=parts, validation=gallery, device=CPU
    )
    (figures,) = stack.scorer.history
    judged, _ = corpus.report_of(stack, corpus.data)
    assert figures["epoch"] == 0
    assert 0 < figures["loss"] < 3
    assert figures["val_R@1"] == pytest.approx(judged["ranker"]["R@1"], abs=0.15), "another split, the same ranker"
    assert stack.scorer.best_epoch is None


def test_each_training_list_is_scored_by_maps_that_have_not_met_it(corpus, monkeypatch):
    fits = []
    real = Evidence.fit.__func__

    def spied(cls, data, direction, seed, device):
        fits.append(data)
        return real(cls, data, direction, seed, device)

    monkeypatch.setattr(Evidence, "fit", classmethod(spied))
    parts = [TrainingPart(corpus.lists_of(held), rest) for rest, held in inner_folds(corpus.data, 3)]
    fit_stack(scorers.get("context_aware", device="cpu"), corpus.data, "t2i", parts=parts, device=CPU)
    assert [data.fingerprint for data in fits] == [*(part.knows.fingerprint for part in parts), corpus.data.fingerprint]
    for data, part in zip(fits, parts, strict=False):
        known = set(data.query_rows("t2i", "train"))
        assert known.isdisjoint(part.lists.query.tolist())


def test_padding_changes_no_score(corpus):
    stack = fitted(corpus, corpus.data)
    batch = corpus.random_batch(dim=24)
    torch.testing.assert_close(
        stack.scorer.score(corpus.pad(batch))[:, :7], stack.scorer.score(batch), rtol=1e-4, atol=1e-4
    )


def test_plain_lists_are_refused(corpus):
    with pytest.raises(UserError, match="features=full is trained on lists of inner folds"):
        parts = [TrainingPart(corpus.lists, corpus.data)]
        fit_stack(scorers.get("context_aware", device="cpu"), corpus.data, "t2i", parts=parts, device=CPU)


def test_a_corpus_projected_once_scores_as_list_by_list(corpus):
    stack = fitted(corpus, corpus.data)
    tensors = stack.tensors(corpus.data, rank_gallery(corpus.data, "t2i", "test").lists, CPU)
    whole = score_lists(stack.scorer, tensors)
    batch, _ = tensors.batch(torch.arange(3))
    torch.testing.assert_close(stack.scorer.score(batch), whole[:3], rtol=1e-3, atol=1e-3)
