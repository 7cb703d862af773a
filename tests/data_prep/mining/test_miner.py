"""The miner on vectors whose cosines anyone can check, and against brute force."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.mining.miner import mine
from data_prep.mining.pools import draw
from data_prep.mining.statistics import format_report
from rank_xmodal.data.candidate_lists import CandidateLists
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError


def embedding_set(image_emb, text_emb, image_of_text, texts=None, grades=1, asking=None):
    images, count = len(image_emb), len(text_emb)
    image_of_text = np.asarray(image_of_text)
    return EmbeddingSet(
        np.asarray(image_emb, np.float16),
        np.asarray(text_emb, np.float16),
        pd.DataFrame({"image_id": [f"i{k}" for k in range(images)], "path": "", "split": "train"}),
        pd.DataFrame(
            {
                "text_id": [f"t{k}" for k in range(count)],
                "text": texts or [f"caption {k}" for k in range(count)],
                "split": ["train" if asking is None or k in asking else "val" for k in range(count)],
            }
        ),
        pd.DataFrame({"image": image_of_text, "text": range(count), "grade": grades}),
        {"fingerprint": "f"},
    )


def at(*degrees):
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def random_set(seed, images=40, per_image=3, d=12, copies=False):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(images, d))
    if copies:
        image[images // 2 :] = image[: images - images // 2]
    text = np.repeat(image, per_image, axis=0) + rng.normal(size=(images * per_image, d))
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    return embedding_set(image, text, np.repeat(np.arange(images), per_image))


def cosines(data, direction):
    return (data.queries(direction).astype(np.float64) @ data.candidates(direction).astype(np.float64).T).astype(
        np.float32
    )


# The query at 0 degrees; its image at 40; others at 10, 20, 30, 60 and 90.
LINE = embedding_set(at(40, 10, 20, 30, 60, 90), at(0, 10, 20, 30, 60, 90), range(6), asking=[0])


def first_list(**options):
    lists = mine(LINE, "t2i", negatives=options.pop("negatives", 3), pool="all", **options)
    labels, rows = lists.labels[0], lists.candidates[0]
    assert rows[labels == 1].tolist() == [0]
    return rows[labels == 0].tolist(), lists


def test_the_hardest_are_taken_in_the_order_of_their_cosine():
    negatives, lists = first_list()
    assert negatives == [1, 2, 3]
    assert lists.candidates[0].tolist() == [1, 2, 3, 0], "the positive stands where its cosine puts it"
    assert np.allclose(lists.cosine[0], np.cos(np.radians([10, 20, 30, 40])), atol=1e-3)


@pytest.mark.parametrize(
    ("options", "expected", "dropped"),
    [
        ({"range_min": 1}, [2, 3, 4], {"range_min": 1}),
        ({"max_score": 0.95}, [2, 3, 4], {"max_score": 1}),  # cos 10 degrees = 0.985
        (
            {"absolute_margin": 0.2, "negatives": 2},
            [4, 5],
            {"absolute_margin": 3},
        ),  # at most 0.566
        ({"relative_margin": 0.3, "negatives": 2}, [4, 5], {"relative_margin": 3}),  # at most 0.536
    ],
)
def test_filters(options, expected, dropped):
    negatives, lists = first_list(**options)
    assert negatives == expected
    for name, count in dropped.items():
        assert lists.info["statistics"]["dropped"][name] == count


def test_a_relative_margin_is_right_for_negative_cosines():
    # Positive at 120 degrees: cosine -0.5. A margin of 10 % asks for at most -0.55, not for at most -0.45.
    data = embedding_set(at(120, 118, 122, 150), at(0, 118, 122, 150), range(4), asking=[0])
    lists = mine(data, "t2i", negatives=1, pool="all", relative_margin=0.1)
    assert lists.candidates[0][lists.labels[0] == 0].tolist() == [3]


def test_siblings_and_duplicates_are_never_negatives():
    images = at(0, 50, 0, 80)  # image 2 is an exact duplicate of image 0
    texts = at(5, 5, 60, 3, 70)
    words = ["A dog.", "a dog runs", "a cat", "another", "a  DOG. "]  # text 4 has the words of text 0
    data = embedding_set(images, texts, [0, 0, 1, 2, 3], words)
    lists = mine(data, "i2t", negatives=1, pool="all")
    for query, rows, labels in zip(lists.query, lists.candidates, lists.labels, strict=True):
        negatives = set(rows[labels == 0].tolist())
        if query in (0, 2):  # of image 0: its captions 0 and 1, its duplicate's caption 3, and 4, which says the same
            assert negatives == {2}


def test_paper_keeps_the_positive_among_the_negatives():
    lists = mine(LINE, "t2i", negatives=4, pool="all", protocol="paper")
    rows, labels = lists.candidates[0], lists.labels[0]
    assert sorted(rows.tolist()) == [0, 0, 1, 2, 3]
    assert sorted(labels[rows == 0].tolist()) == [0, 1]
    assert lists.info["statistics"]["relevant_labelled_0"] == 1


def test_paper_labels_siblings_0():
    data = random_set(0)
    lists = mine(data, "i2t", negatives=60, pool="all", protocol="paper")
    grades = data.grades("i2t", lists.query, lists.candidates)
    assert (lists.labels.sum(axis=1) == 1).all()
    assert ((grades > 0) & (lists.labels == 0)).any(axis=1).mean() > 0.9


def test_natural_takes_labels_as_they_fall_and_counts_the_missing():
    data = random_set(1)
    lists = mine(data, "i2t", negatives=9, pool=60, protocol="natural")
    np.testing.assert_array_equal(lists.labels, data.grades("i2t", lists.query, lists.candidates))
    assert (lists.labels > 0).any(axis=1).all()
    assert len(lists) + lists.info["statistics"]["queries_without_hit"] == 40


def test_natural_ranks_within_galleries_that_keep_an_images_captions_together():
    data = random_set(2)
    lists = mine(data, "i2t", negatives=29, pool=30, protocol="natural")
    owner = data.relevance["image"].to_numpy()
    for rows in lists.candidates:
        images, counts = np.unique(owner[rows], return_counts=True)
        assert (counts == 3).all()
        assert len(images) == 10
    assert {tuple(sorted(r)) for r in lists.candidates.tolist()} != {tuple(range(30))}
    assert len({tuple(sorted(r)) for r in lists.candidates.tolist()}) == 4, "120 captions in galleries of 30"


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1_000), direction=st.sampled_from(["t2i", "i2t"]), copies=st.booleans())
def test_clean_equals_brute_force(seed, direction, copies):
    data = random_set(seed, copies=copies)
    pool = 25
    lists = mine(data, direction, negatives=8, pool=pool, seed=seed)
    scores = cosines(data, direction)
    relevant = data.relevance_matrix(direction).toarray() > 0
    same_query = (data.queries(direction)[:, None] == data.queries(direction)[None]).all(-1)
    same_candidate = (data.candidates(direction)[:, None] == data.candidates(direction)[None]).all(-1)
    protected = (same_query.astype(int) @ relevant @ same_candidate.astype(int)) > 0
    drawn = draw(seed, lists.query.astype(np.int64), scores.shape[1], pool)
    for query, rows, labels, pool_rows in zip(lists.query, lists.candidates, lists.labels, drawn, strict=True):
        free = [c for c in pool_rows if not protected[query, c]]
        expected = sorted(free, key=lambda c: (-scores[query, c], c))[:8]
        assert rows[labels == 0].tolist() == expected
        (positive,) = rows[labels == 1]
        assert relevant[query, positive]
        assert (np.diff(scores[query, rows]) <= 0).all()


@pytest.mark.parametrize("protocol", ["clean", "natural", "paper"])
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_block_size_and_threads_change_nothing_and_the_seed_does(protocol, direction):
    data = random_set(3)
    threads = torch.get_num_threads()
    options = {"negatives": 8, "pool": 30, "protocol": protocol}
    expected = mine(data, direction, seed=5, **options)
    try:
        for block, count in ((1, 1), (7, 2)):
            torch.set_num_threads(count)
            again = mine(data, direction, seed=5, block=block, **options)
            for name in ("query", "candidates", "labels", "cosine"):
                np.testing.assert_array_equal(getattr(again, name), getattr(expected, name))
    finally:
        torch.set_num_threads(threads)
    other = mine(data, direction, seed=6, **options)
    assert other.candidates.shape != expected.candidates.shape or (other.candidates != expected.candidates).any()


@pytest.mark.parametrize(("gallery", "size"), [(50, 20), (400, 20), (20, 20)])
def test_a_pool_is_drawn_without_repetition_and_evenly(gallery, size):
    pools = draw(0, np.arange(3_000), gallery, size)
    assert all(len(set(row)) == size for row in pools.tolist())
    counts = np.bincount(pools.reshape(-1), minlength=gallery)
    expected = 3_000 * size / gallery
    assert abs(counts - expected).max() < 6 * np.sqrt(expected) + 1e-9
    np.testing.assert_array_equal(draw(0, np.array([17]), gallery, size)[0], pools[17])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negatives": 0}, "negatives=0"),
        ({"negatives": 30, "pool": 20}, "increase --pool to at least 30"),
        ({"negatives": 50}, "only 39 candidates remain for query row 0"),
        ({"protocol": "clever"}, "protocol='clever'"),
        ({"protocol": "paper", "max_score": 0.5}, "--max-score 0.5: works with --protocol clean only"),
        ({"negatives": 5, "absolute_margin": 1.9}, "relax --absolute-margin"),
        ({"split": "test"}, "split 'test' is empty"),
        ({"seed": -1}, "seed=-1"),
        ({"absolute_margin": float("nan")}, "finite"),
    ],
)
def test_messages_name_the_setting_and_the_remedy(options, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        mine(random_set(4), "t2i", **options)


def test_two_images_are_enough():
    data = embedding_set(at(0, 90), at(5, 80), [0, 1])
    for protocol in ("clean", "natural", "paper"):
        lists = mine(data, "t2i", negatives=1, pool="all", protocol=protocol)
        assert len(lists) == 2


def test_lists_survive_the_disk_and_report(tmp_path):
    data = random_set(5)
    lists = mine(data, "t2i", negatives=6, pool=20)
    lists.write(tmp_path / "l.parquet")
    again = CandidateLists.read(tmp_path / "l.parquet", data)
    for name in ("query", "candidates", "labels", "cosine"):
        np.testing.assert_array_equal(getattr(again, name), getattr(lists, name))
    assert again.info == lists.info
    text = format_report(again)
    assert "positive" in text
    assert "relevant or duplicate" in text
