"""The ranker over scores: nothing is learnt from what it is judged by, nothing gained where there is nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rank_xmodal import scorers
from rank_xmodal.errors import UserError
from rank_xmodal.lists.scoring import score_lists
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.scorers.context_aware.evidence import Evidence
from rank_xmodal.scorers.stack import TrainingPart, fit_stack
from rank_xmodal.training.crossfit import inner_folds

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


def test_pairs_put_together_at_random_teach_it_nothing(corpus):
    """Maps of random pairs look splendid on their own pairs; on held-out ones they don't, and get no weight."""
    data = corpus.data
    train = (data.texts["split"] == "train").to_numpy()[data.relevance["text"]]
    relevance = data.relevance.copy()
    relevance.loc[train, "image"] = np.random.default_rng(0).permutation(relevance["image"][train].to_numpy())
    shuffled = replace(data, relevance=relevance, meta={**data.meta, "fingerprint": "shuffled"})
    stack = fitted(corpus, shuffled)
    assert stack.scorer.network.penalty >= 30


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
