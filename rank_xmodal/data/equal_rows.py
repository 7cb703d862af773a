"""Exact duplicates among the rows of a table, found by hashing: a table that is mapped is read once, in blocks."""

from __future__ import annotations

import numpy as np
import pandas as pd


def equal_rows(rows: np.ndarray, block: int = 1_024) -> np.ndarray:
    """Give rows numbers such that those of the same bytes share a number.

    Parameters
    ----------
    rows : ndarray (n, d), of any dtype; memory-mapped it is read, not copied
    block : int
        Rows hashed at a time.

    Returns
    -------
    ndarray (n,), int64, from 0 in the order of first occurrence.
    """
    rows = np.ascontiguousarray(rows)
    if rows.shape[1] * rows.itemsize % 8:
        return _by_bytes(rows)
    words = rows.view(np.uint64)
    odd = 2 * np.random.default_rng(0).integers(2**63, size=words.shape[1], dtype=np.uint64) + 1
    hashes = np.concatenate([words[start : start + block] @ odd for start in range(0, len(words), block)])
    number, distinct = pd.factorize(hashes)
    first = np.empty(len(distinct), dtype=np.int64)
    first[number[::-1]] = np.arange(len(rows))[::-1]  # the last one written stays
    again = np.flatnonzero(first[number] != np.arange(len(rows)))
    for part in np.array_split(again, 1 + len(again) // block):
        if (words[part] != words[first[number[part]]]).any():  # different rows, one hash
            return _by_bytes(rows)
    return number


def _by_bytes(rows: np.ndarray) -> np.ndarray:
    """As `equal_rows`, for rows of any width and hash, and slower."""
    return pd.factorize(np.array([row.tobytes() for row in rows], dtype=object))[0]
