"""What must not be separated: near-duplicates and what is relevant to one another."""

from dataclasses import replace

import numpy as np
import pytest

from rank_xmodal.data import groups as module
from rank_xmodal.data.groups import groups, owners
from rank_xmodal.training.crossfit import inner_folds


def unit(table):
    table = np.asarray(table, np.float32)
    return (table / np.linalg.norm(table, axis=1, keepdims=True)).astype(np.float16)


def near(row, noise, seed):
    return unit([row.astype(np.float32) + noise * np.random.default_rng(seed).normal(size=row.shape)])[0]


@pytest.fixture
def twins(corpus):
    """The planted corpus with an image like another, and a caption like another's."""
    data = corpus.planted(seed=20)
    images, texts = np.array(data.image_emb), np.array(data.text_emb)
    asked = data.relevance.set_index("text")["image"]
    images[7] = near(images[3], 0.01, 0)
    other = int(asked.index[asked == 11][0])
    texts[other] = near(texts[int(asked.index[asked == 20][0])], 0.01, 1)
    return replace(data, image_emb=images, text_emb=texts)


def test_relevance_and_near_duplicates_join_both_sides(twins):
    found = groups(twins)
    asked = twins.relevance
    assert (found.text[asked["text"]] == found.image[asked["image"]]).all()
    assert found.threshold == 0.95
    assert found.joined == 2
    assert found.image[3] == found.image[7]
    assert found.image[11] == found.image[20]
    count = len(np.unique(found.image))
    assert count == len(twins.images) - 2
    text, image = owners(twins)
    assert len(np.unique(image)) == len(twins.images), "relevance alone joins no two of these images"
    assert (text[asked["text"]] == image[asked["image"]]).all()


def test_no_inner_fold_parts_them(twins):
    for rest, held in inner_folds(twins, 5):
        for pair in ((3, 7), (11, 20)):
            splits = [{part.images["split"][row] for row in pair} for part in (rest, held)]
            assert all(len(found) == 1 for found in splits)


def test_where_everything_is_alike_a_higher_threshold_is_taken_or_none(corpus):
    data = corpus.planted(seed=21)
    rng = np.random.default_rng(0)
    centre = rng.normal(size=24)
    close = unit(centre + 0.15 * rng.normal(size=(len(data.images), 24)))
    found = groups(replace(data, image_emb=close))
    assert found.threshold > 0.95
    assert np.bincount(found.image).max() <= 0.05 * len(data.images)
    same = unit(np.tile(centre, (len(data.images), 1)))
    found = groups(replace(data, image_emb=same))
    assert found.threshold == float("inf")
    assert len(np.unique(found.image)) == len(data.images)


def test_of_a_very_large_side_equal_items_are_found(twins, monkeypatch):
    images = np.array(twins.image_emb)
    images[7] = images[3]
    monkeypatch.setattr(module, "MOST", 100)
    found = groups(replace(twins, image_emb=images))
    assert found.image[3] == found.image[7]
    assert found.image[11] != found.image[20], "alike, but not equal"


def test_splits_change_nothing_and_are_not_asked_twice(twins, monkeypatch):
    first = groups(twins)
    monkeypatch.setattr(module, "_related", pytest.fail)
    other = replace(twins, images=twins.images.assign(split="test"), meta={**twins.meta, "fingerprint": "other"})
    assert groups(other) is first
