"""Training maps on pairs, and the choice of the epoch."""

import numpy as np
import pytest
import torch
from torch import nn

from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.judging import per_query
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.scorers.projections.fit import PairSettings, Validation, common_cosine, train
from rank_xmodal.scorers.projections.maps import identity_maps
from rank_xmodal.scorers.projections.pairs import TrainingPairs
from rank_xmodal.training.watch import Watch


def test_common_cosine_equals_plain_loops():
    rng = np.random.default_rng(0)
    query, candidates = rng.normal(size=(3, 5)), rng.normal(size=(3, 4, 5))
    found = common_cosine(torch.from_numpy(query), torch.from_numpy(candidates))
    for b in range(3):
        for place in range(4):
            q, c = query[b], candidates[b, place]
            assert float(found[b, place]) == pytest.approx(q @ c / np.linalg.norm(q) / np.linalg.norm(c), abs=1e-6)
    assert common_cosine(torch.zeros(1, 5), torch.ones(1, 2, 5)).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_identity_maps_have_the_mrr_of_clip(corpus, direction):
    stage = rank_gallery(corpus.data, direction, "val")
    found = Validation(corpus.data, direction, stage).mrr(identity_maps(corpus.data.dim, "cpu"))
    # Stored vectors are of length 1 to three digits: near ties may fall the other way.
    assert found == pytest.approx(float(per_query(torch.from_numpy(stage.lists.cosine), stage)["MRR"].mean()), abs=5e-3)


def test_validation_lists_of_the_other_direction_are_refused(corpus):
    with pytest.raises(ValueError, match=r"are of i2t, .* pass rank_gallery\(data, 't2i', 'val'\)"):
        Validation(corpus.data, "t2i", rank_gallery(corpus.data, "i2t", "val"))


def test_validation_lists_of_another_set_are_refused(corpus):
    """Their rows are rows of other tables."""
    with pytest.raises(ValueError, match=r"of the embedding set 'planted 7', .* 'planted 0': pass lists of the same"):
        Validation(corpus.data, "t2i", rank_gallery(corpus.planted(seed=7), "t2i", "val"))


def test_the_start_is_kept_when_training_only_harms(corpus):
    stage = rank_gallery(corpus.data, "t2i", "val")
    judge = Validation(corpus.data, "t2i", stage)
    start = judge.mrr(identity_maps(24, "cpu"))
    maps, history, epoch = train(
        identity_maps(24, "cpu"),
        TrainingPairs.gather(corpus.data),
        lambda image, text, match: (image * text).sum(),  # the wrong way round
        PairSettings(epochs=3, batch_size=64, lr=0.1),
        seed=0,
        validation=judge,
        watch=Watch(),
    )
    assert epoch == 0
    assert [figures["epoch"] for figures in history] == [0, 1, 2, 3]
    assert history[0]["val_MRR"] == start
    assert judge.mrr(maps) == start


def test_a_loss_that_is_not_finite_is_an_error(corpus):
    with pytest.raises(UserError, match="the loss is nan in epoch 1"):
        train(
            identity_maps(24, "cpu"),
            TrainingPairs.gather(corpus.data),
            lambda image, text, match: image.sum() * torch.nan,
            PairSettings(epochs=1, batch_size=64, lr=0.1),
            seed=0,
            watch=Watch(),
        )


def test_the_learning_rate_falls_to_a_tenth(corpus):
    """A constant gradient makes every step of Adam as long as the learning rate."""
    layer = nn.Linear(24, 1, bias=False)
    nn.init.zeros_(layer.weight)
    train(
        (layer, identity_maps(24, "cpu")[1]),
        TrainingPairs.gather(corpus.data),
        lambda image, text, match: layer.weight.sum() + 0 * text.sum(),
        PairSettings(epochs=3, batch_size=10_000, lr=0.1, drop_after=2),
        seed=0,
        watch=Watch(),
    )
    assert layer.weight.detach().mean().item() == pytest.approx(-0.21, abs=1e-4)


def test_training_up_to_an_epoch_ends_as_the_whole_training_was_there(corpus):
    """A second fit on more pairs stops where validation stopped the first."""

    def after(settings, last_epoch=None):
        pairs = TrainingPairs.gather(corpus.data)
        maps, _, epoch = train(
            identity_maps(24, "cpu"),
            pairs,
            lambda i, t, m: -(i * t).sum(-1).mean(),
            settings,
            seed=0,
            watch=Watch(last_epoch=last_epoch),
        )
        return maps[0].weight, epoch

    stopped, epoch = after(PairSettings(epochs=9, drop_after=1), last_epoch=2)
    short, _ = after(PairSettings(epochs=2, drop_after=1))
    assert epoch == 2
    assert torch.equal(stopped, short)
    start, epoch = after(PairSettings(epochs=9), last_epoch=0)
    assert epoch == 0
    assert torch.equal(start, torch.eye(24))
