"""Random pools: which candidates a query draws, by hashing, so that no block, order or thread can change them."""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LARGEST = 1 << 21  # hashes in memory at a time


def mix(*words: np.ndarray | int) -> np.ndarray:
    """Hash whole numbers into 64 random bits, elementwise with broadcasting (SplitMix64, Steele et al. 2014)."""
    state: np.ndarray = np.zeros((), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for word in words:
            state = (state ^ np.asarray(word).astype(np.uint64)) + _GOLDEN
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


def draw(seed: int, query_rows: np.ndarray, gallery: int, size: int) -> np.ndarray:
    """Draw `size` different places of a gallery for each query, every subset equally likely.

    Parameters
    ----------
    seed : int
    query_rows : ndarray (Q,), int
    gallery : int, the number of places, at least `size`
    size : int

    Returns
    -------
    ndarray (Q, size), int64, in the order drawn.
    """
    width = gallery if gallery < 4 * size else 2 * size + 64
    height = max(1, _LARGEST // width)
    parts = [_draw(seed, query_rows[at : at + height], gallery, size) for at in range(0, len(query_rows), height)]
    return np.concatenate(parts) if parts else np.empty((0, size), dtype=np.int64)


def _draw(seed: int, query_rows: np.ndarray, gallery: int, size: int) -> np.ndarray:
    queries = query_rows[:, None]
    if gallery < 4 * size:
        keys = mix(seed, queries, np.arange(gallery)[None])
        return np.argsort(keys, axis=1, kind="stable")[:, :size]
    # Draw more than enough with repetition and keep the first of each; with gallery >= 4 size, twice is enough.
    tries = 2 * size + 64
    drawn = (mix(seed, queries, np.arange(tries)[None]) % np.uint64(gallery)).astype(np.int64)
    order = np.argsort(drawn, axis=1, kind="stable")
    ordered = np.take_along_axis(drawn, order, 1)
    again = np.zeros_like(drawn, dtype=bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    first = np.argsort(again, axis=1, kind="stable")[:, :size]  # in the order drawn, repetitions last
    if np.take_along_axis(again, first, 1).any():  # not to be expected before the end of the universe
        raise AssertionError("too many repetitions in a random pool")
    return np.take_along_axis(drawn, first, 1)
