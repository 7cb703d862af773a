"""Exact top-k over a gallery in shards, each searched by whoever holds it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np


def shards_of(count: int, shards: int) -> list[tuple[int, int]]:
    """Return where each of so many shards of `count` candidates begins and ends, (start, stop), none of them empty."""
    ends = np.linspace(0, count, min(shards, count) + 1).astype(int).tolist()
    return list(pairwise(ends))


def merged(
    found: Sequence[tuple[np.ndarray, np.ndarray]], starts: Sequence[int], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the top k of all shards from the top min(k, m_i) of each, as `top_candidates` of the whole would.

    The whole's top k are in the shards' top k, and each cosine is the exact one rounded once wherever it was computed:
    the same candidates, and ties by ascending row.

    Parameters
    ----------
    found : sequence of (ndarray (n, k_i) int64, ndarray (n, k_i) float32)
        Rows within the shard, and cosines.
    starts : sequence of int
        Where each shard begins in the whole.
    k : int
        At most the number of candidates of the whole.

    Returns
    -------
    ndarray (n, k), int64
        Rows of the whole.
    ndarray (n, k), float32
        Their cosines, descending.
    """
    rows = np.concatenate([of + start for (of, _), start in zip(found, starts, strict=True)], axis=1)
    cosine = np.concatenate([of for _, of in found], axis=1)
    order = np.lexsort((rows, -cosine), axis=1)[:, :k]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(cosine, order, 1)
