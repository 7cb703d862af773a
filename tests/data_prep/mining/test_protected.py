"""Exact duplicates are found by a hash of their bytes, and only they."""

import numpy as np
import pandas as pd
import pytest

from data_prep.mining.protected import _classes


def same(classes: np.ndarray) -> np.ndarray:
    return classes[:, None] == classes[None, :]


@pytest.mark.parametrize("width", [4, 6, 64, 512])
def test_rows_share_a_number_only_with_rows_of_the_same_bytes(width):
    rng = np.random.default_rng(width)
    rows = rng.normal(size=(3_000, width)).astype(np.float16)
    rows[rng.integers(3_000, size=400)] = rows[rng.integers(3_000, size=400)]
    bytes_of = [row.tobytes() for row in rows]
    assert (same(_classes(rows)) == same(pd.factorize(np.array(bytes_of, dtype=object))[0])).all()


def test_rows_of_one_hash_are_told_apart():
    rows = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float16)
    # A sign is the highest bit of its word: of any odd multiple of it nothing else is left, and two of them cancel.
    rows[2] = rows[1]
    rows[2, [3, 7]] *= -1
    rows[3] = rows[1]
    found = _classes(rows)
    assert found[1] == found[3]
    assert len(set(found[:3])) == 3


def test_words_or_embedding_alike_is_a_duplicate_and_links_add_up():
    rows = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float16)
    rows[3] = rows[0]
    found = _classes(rows, pd.Series(["A  dog", "a Dog", "a cat", "another", "a bird"]))
    assert found[0] == found[1] == found[3]
    assert len({found[0], found[2], found[4]}) == 3
