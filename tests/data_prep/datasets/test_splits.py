from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.datasets.splits import random_splits, read_splits, split_of_images
from data_prep.datasets.tables import Table
from rank_xmodal.errors import UserError


def table(splits):
    from pathlib import Path

    return Table(Path("c.csv"), {"split": splits}, list(range(2, 2 + len(splits))), "line")


def test_spellings():
    given = ["train", "Val", "validation", "dev", "TEST"]
    assert read_splits(table(given)) == ["train", "val", "val", "val", "test"]


@pytest.mark.parametrize("value", ["", "holdout", "none"])
def test_unknown(value):
    with pytest.raises(UserError, match=rf"c\.csv, line 3: split '{value}' must be train, val"):
        read_splits(table(["train", value]))


def test_an_image_in_two_splits():
    splits = ["train", "val", "train", "test"]
    assert split_of_images(table(splits), ["a", "b", "a", "c"], splits) == {"a": "train", "b": "val", "c": "test"}
    with pytest.raises(UserError, match=r"line 5: image 'a' is in split 'test' here and in 'train' in line 2"):
        split_of_images(table(splits), ["a", "b", "a", "a"], splits)


@given(st.integers(3, 200), st.integers(0, 5))
def test_shares_and_order(count, seed):
    names = [f"{i}.jpg" for i in range(count)]
    dealt = random_splits(names, seed, "x")
    assert dealt == random_splits(names[::-1], seed, "x")
    share = max(1, round(count / 10))
    assert Counter(dealt.values()) == {"train": count - 2 * share, "val": share, "test": share}


def test_the_seed_matters_and_the_result_is_fixed():
    names = [f"{i}.jpg" for i in range(30)]
    assert random_splits(names, 0, "x") != random_splits(names, 1, "x")
    # Guards the split of sets that people have made already.
    assert sorted(n for n, s in random_splits(names, 0, "x").items() if s == "test") == ["16.jpg", "28.jpg", "5.jpg"]


def test_too_few():
    with pytest.raises(UserError, match=r"captions.csv: 2 image.*Add a split column"):
        random_splits(["a", "b"], 0, "captions.csv")
