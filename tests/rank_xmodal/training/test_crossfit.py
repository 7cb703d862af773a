"""Inner folds share no pair, and what is fitted on pairs scores training lists out of fold only."""

import numpy as np

from rank_xmodal.training.crossfit import inner_count, inner_folds


def items(data):
    return (set(np.flatnonzero(table["split"] == "train")) for table in (data.images, data.texts))


def test_folds_cover_train_and_never_part_an_image_from_its_captions(corpus):
    data = corpus.data
    owner = dict(zip(data.relevance["text"], data.relevance["image"], strict=True))
    whole_images, whole_texts = items(data)
    seen = []
    for rest, held in inner_folds(data, 4, seed=1):
        (rest_images, rest_texts), (images, texts) = items(rest), items(held)
        assert rest_images.isdisjoint(images)
        assert rest_texts.isdisjoint(texts)
        assert rest_images | images == whole_images
        assert rest_texts | texts == whole_texts
        assert {owner[text] for text in texts} == images
        for split in ("val", "test"):
            assert (held.images["split"] == split).tolist() == (data.images["split"] == split).tolist()
        seen.append(images)
        assert rest.fingerprint != held.fingerprint != data.fingerprint
        assert held.root is None
    assert set.union(*seen) == whole_images
    assert sum(map(len, seen)) == len(whole_images)


def test_captions_of_several_images_stay_with_all_of_them(corpus):
    pairs = [(k, k) for k in range(12)] + [(k + 1, k) for k in range(0, 12, 2)]
    emb = np.random.default_rng(0).normal(size=(12, 4))
    data = corpus.embedding_set(emb, emb, pairs, "train", "train")
    for _, held in inner_folds(data, 3):
        images, texts = items(held)
        assert images == texts
        assert all((k ^ 1) in images for k in images)


def test_the_same_seed_makes_the_same_folds(corpus):
    def first(seed):
        return next(inner_folds(corpus.data, 5, seed))[1].images["split"].tolist()

    assert first(3) == first(3)
    assert first(3) != first(4)


def test_folds_of_train_are_even_whatever_the_other_splits_hold(corpus):
    sizes = [int((held.images["split"] == "train").sum()) for _, held in inner_folds(corpus.data, 7)]
    assert max(sizes) - min(sizes) <= 1


def test_how_many_folds(corpus):
    assert inner_count(corpus.data, None) == inner_count(corpus.data, "auto") == 5
    assert inner_count(corpus.data, 3) == 3
    large = corpus.planted(images=2_000, per_image=1, d=4)
    assert inner_count(large, "auto") == 2
    assert inner_count(large, None) == 5
