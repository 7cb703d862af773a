"""The training loop on a planted corpus, through the scorers that it trains."""

import math

import numpy as np
import pytest
import torch

from rank_xmodal import losses
from rank_xmodal.errors import UserError
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.scorers.context_aware.ranker import ContextAwareRanker


def r1(corpus, trained, data=None):
    report, _ = corpus.report_of(trained, data or corpus.data)
    return report["ranker"]["R@1"], report["clip"]["R@1"]


@pytest.mark.parametrize("loss", losses.names())
def test_every_loss_beats_clip(corpus, loss):
    trained = corpus.train(
        corpus.data,
        corpus.lists_of(corpus.data),
        corpus.chosen(loss=loss, epochs=12, lr=5e-3, batch_size=16),
        validation=rank_gallery(corpus.data, "t2i", "val"),
    )
    ranker, clip = r1(corpus, trained)
    # Half of the dimensions are noise. With the product at its natural length, 1 / sqrt(d), a training stood still for
    # seven epochs before it saw that, and SmoothAP never did.
    assert ranker > clip + 0.25


def test_shuffled_labels_do_not_beat_clip(corpus):
    lists = corpus.lists_of(corpus.data)
    rng = np.random.default_rng(0)
    lists.labels[:] = rng.permuted(lists.labels, axis=1)
    trained = corpus.train(corpus.data, lists, corpus.chosen(epochs=4, lr=3e-3))
    ranker, clip = r1(corpus, trained)
    assert ranker <= clip + 0.02


def test_the_same_seed_gives_the_same_weights_and_another_one_does_not(corpus):
    first, again, other = (
        corpus.train(corpus.data, corpus.lists_of(corpus.data), corpus.chosen(seed=s, epochs=1)).scorer.state
        for s in (4, 4, 5)
    )
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_nan_stops_the_run_with_epoch_and_cause(corpus, monkeypatch):
    def broken(scores, labels):
        return (scores * math.nan).sum()

    monkeypatch.setattr("rank_xmodal.losses.get", lambda name, **params: broken)
    with pytest.raises(UserError, match=r"epoch 1, step 1: the scores are finite .* the loss listnet is not"):
        corpus.train(corpus.data, corpus.lists_of(corpus.data), corpus.chosen())


def test_nan_among_the_scores_stops_the_run_with_epoch_and_cause(corpus, monkeypatch):
    """The losses refuse them: that is no error of the one who called them, but of the training."""
    score = ContextAwareRanker.forward
    monkeypatch.setattr(ContextAwareRanker, "forward", lambda *a: score(*a) * (math.nan if a[0].training else 1))
    with pytest.raises(UserError, match=r"epoch 1, step 1: the ranker's scores are not finite: .* Lower lr"):
        corpus.train(corpus.data, corpus.lists_of(corpus.data), corpus.chosen())


def test_lists_that_teach_nothing_are_refused(corpus):
    lists = corpus.lists_of(corpus.data)
    lists.labels[:] = 0
    with pytest.raises(UserError, match="both a relevant and a non-relevant"):
        corpus.train(corpus.data, lists, corpus.chosen())


def test_the_kept_epoch_is_within_a_standard_error_of_the_best(corpus):
    trained = corpus.train(
        corpus.data,
        corpus.lists_of(corpus.data),
        corpus.chosen(epochs=5, lr=3e-2),
        validation=rank_gallery(corpus.data, "t2i", "val"),
    )
    values = [h["val_MRR"] for h in trained.scorer.history]
    assert values[trained.scorer.best_epoch] >= max(values) - 0.03
    assert trained.scorer.best_epoch > 0


def test_training_stops_early(corpus, monkeypatch):
    monkeypatch.setattr(
        "rank_xmodal.training.checkpoint.Checkpoint._good_enough", lambda state, *_: not state.best_epoch
    )
    trained = corpus.train(
        corpus.data,
        corpus.lists_of(corpus.data),
        corpus.chosen(epochs=9, patience=2),
        validation=rank_gallery(corpus.data, "t2i", "val"),
    )
    assert len(trained.scorer.history) == 1 + 3, "the untrained ranker, the best epoch and two without a better one"
