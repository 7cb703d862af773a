"""Training pairs, the common cosine and the choice of the epoch."""

import numpy as np
import pytest
import torch
from torch import nn

from rank_xmodal.baselines._projected import (
    Centred,
    TrainingPairs,
    Validation,
    common_cosine,
    identity_maps,
    train,
)
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation import first_stage, per_query


def hand_made(corpus):
    """Image 0 has captions 0 and 1, caption 1 belongs to image 1 too; image 2 is test, image 3 train without any."""
    pairs = [(0, 0), (0, 1), (1, 1), (2, 2), (0, 2), (2, 0)]
    image_split = np.array(["train", "train", "test", "train"])
    return corpus.embedding_set(np.eye(4), np.eye(4)[:3], pairs, image_split, np.array(["train", "train", "test"]))


def test_pairs_are_the_relevant_ones_with_both_sides_in_train(corpus):
    data = hand_made(corpus)
    pairs = TrainingPairs.gather(data)
    assert list(zip(pairs.image, pairs.text, strict=True)) == [(0, 0), (0, 1), (1, 1)]
    assert pairs.images.tolist() == np.eye(4)[:2].tolist()
    assert pairs.texts.tolist() == np.eye(4)[:2].tolist()


def test_match_says_whether_image_i_belongs_to_text_j(corpus):
    match = TrainingPairs.gather(hand_made(corpus)).match(np.array([0, 1, 2]))
    assert match.tolist() == [[True, True, True], [True, True, True], [False, True, True]]


def test_match_of_every_pair_equals_the_relevance(corpus):
    pairs = TrainingPairs.gather(corpus.data)
    index = np.random.default_rng(0).choice(len(pairs), 50, replace=False)
    known = set(zip(pairs.image.tolist(), pairs.text.tolist(), strict=True))
    match = pairs.match(index)
    for i, p in enumerate(index):
        for j, r in enumerate(index):
            assert bool(match[i, j]) == ((int(pairs.image[p]), int(pairs.text[r])) in known)


def test_batches_hold_every_pair_once_and_are_of_one_size(corpus):
    pairs = TrainingPairs.gather(corpus.data)
    batches = list(pairs.batches(64, np.random.default_rng(0)))
    assert sorted(np.concatenate(batches)) == list(range(len(pairs)))
    assert max(map(len, batches)) - min(map(len, batches)) <= 1
    assert len(list(pairs.batches(10 * len(pairs), np.random.default_rng(0)))) == 1


def test_without_training_pairs_it_says_so(corpus):
    data = corpus.embedding_set(np.eye(2), np.eye(2), [(0, 0), (1, 1)], np.array(["train", "val"]), "val")
    with pytest.raises(UserError, match=r"hand-made: no caption of the split train .*split column"):
        TrainingPairs.gather(data)


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
    stage = first_stage(corpus.data, direction, "val")
    found = Validation(corpus.data, direction, stage).mrr(identity_maps(corpus.data.dim, "cpu"))
    # Stored vectors are of length 1 to three digits: near ties may fall the other way.
    assert found == pytest.approx(float(per_query(torch.from_numpy(stage.lists.cosine), stage)["MRR"].mean()), abs=5e-3)


def test_validation_lists_of_the_other_direction_are_refused(corpus):
    with pytest.raises(ValueError, match=r"are of i2t, .* pass first_stage\(data, 't2i', 'val'\)"):
        Validation(corpus.data, "t2i", first_stage(corpus.data, "i2t", "val"))


def test_validation_lists_of_another_set_are_refused(corpus):
    """Their rows are rows of other tables."""
    with pytest.raises(ValueError, match=r"of the embedding set 'planted 7', .* 'planted 0': pass lists of the same"):
        Validation(corpus.data, "t2i", first_stage(corpus.planted(seed=7), "t2i", "val"))


def test_the_start_is_kept_when_training_only_harms(corpus):
    stage = first_stage(corpus.data, "t2i", "val")
    judge = Validation(corpus.data, "t2i", stage)
    start = judge.mrr(identity_maps(24, "cpu"))
    maps, epoch = train(
        identity_maps(24, "cpu"),
        TrainingPairs.gather(corpus.data),
        lambda image, text, match: (image * text).sum(),  # the wrong way round
        epochs=3,
        batch_size=64,
        lr=0.1,
        seed=0,
        validation=judge,
    )
    assert epoch == 0
    assert judge.mrr(maps) == start


def test_a_loss_that_is_not_finite_is_an_error(corpus):
    with pytest.raises(UserError, match="the loss is nan in epoch 1"):
        train(
            identity_maps(24, "cpu"),
            TrainingPairs.gather(corpus.data),
            lambda image, text, match: image.sum() * torch.nan,
            epochs=1,
            batch_size=64,
            lr=0.1,
            seed=0,
        )


def test_the_learning_rate_falls_to_a_tenth(corpus):
    """A constant gradient makes every step of Adam as long as the learning rate."""
    layer = nn.Linear(24, 1, bias=False)
    nn.init.zeros_(layer.weight)
    train(
        (layer, identity_maps(24, "cpu")[1]),
        TrainingPairs.gather(corpus.data),
        lambda image, text, match: layer.weight.sum() + 0 * text.sum(),
        epochs=3,
        batch_size=10_000,
        lr=0.1,
        seed=0,
        drop_after=2,
    )
    assert layer.weight.detach().mean().item() == pytest.approx(-0.21, abs=1e-4)


def test_centred_takes_the_mean_off():
    module = Centred(torch.tensor([1.0, 2.0]), torch.tensor([[3.0], [4.0]]))
    assert module(torch.tensor([[2.0, 4.0]])).tolist() == [[11.0]]
