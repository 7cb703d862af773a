"""The training pairs of a set."""

import numpy as np
import pytest

from rank_xmodal.errors import UserError
from rank_xmodal.scorers.projections.pairs import TrainingPairs


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
