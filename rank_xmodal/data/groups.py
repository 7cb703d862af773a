"""What belongs together: items joined by relevance, and near-duplicates.

A near-duplicate on the other side of a split gives an answer away: it must stay on the side of its like.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.equal_rows import equal_rows
from rank_xmodal.data.memo import memo, same_items

NEAR = (0.95, 0.97, 0.98, 0.99, 0.995, 0.999)
"""Cosines within a side above which two items are near-duplicates: the first at which no group grows too large."""
LARGEST_SHARE = 0.05  # of the items of a side; beyond it whole sets are chained together, one like to the next
MOST = 40_000  # items of a side up to which each is compared with each; of more, only equal ones are found
_CROWD = 5  # near-duplicates an item on average, from which on a chain is certain
_BLOCK, _SAMPLE = 2_048, 256


@dataclass(frozen=True)
class Groups:
    """Which items belong together.

    Attributes
    ----------
    text, image : ndarray (n,) int64
        The group of each text and of each image, numbered together.
    threshold : float
        The cosine above which two items were taken for near-duplicates; infinite where none were.
    joined : int
        How many groups of relevance were joined to others by near-duplicates.
    """

    text: np.ndarray
    image: np.ndarray
    threshold: float
    joined: int


@memo(most=4, of=same_items)
def groups(data: EmbeddingSet) -> Groups:
    """Join the items of a set that must not be separated: what is relevant to one another, and near-duplicates.

    The lowest of the thresholds `NEAR` is taken at which no group holds more than 5 % of a side's items, or twice the
    largest that relevance makes: single linkage chains where everything is alike.
    """
    texts = len(data.texts)
    related = _related(data)
    whole, parts = _joined(related, texts + len(data.images))
    most = max(2 * int(np.bincount(parts[:texts]).max(initial=1)), LARGEST_SHARE * texts)
    most_images = max(2 * int(np.bincount(parts[texts:]).max(initial=1)), LARGEST_SHARE * len(data.images))
    tables = (np.asarray(data.text_emb), 0), (np.asarray(data.image_emb), texts)
    crowded = {threshold for table, _ in tables for threshold in _crowded(table)}
    possible = [threshold for threshold in NEAR if threshold not in crowded]
    found = [(pairs + first, cosine) for table, first in tables for pairs, cosine in [_near(table, possible)]]
    for threshold in possible:
        near = [pairs[:, cosine > threshold] for pairs, cosine in found]
        count, group = _joined(np.concatenate([related, *near], axis=1), texts + len(data.images))
        large = np.bincount(group[:texts]).max(initial=0) > most
        if not large and np.bincount(group[texts:]).max(initial=0) <= most_images:
            return Groups(group[:texts], group[texts:], threshold, whole - count)
    return Groups(parts[:texts], parts[texts:], float("inf"), 0)


def owners(data: EmbeddingSet) -> tuple[np.ndarray, np.ndarray]:
    """Return which texts (n,) and images (m,) are joined by relevance alone: equal numbers belong together."""
    _, group = _joined(_related(data), len(data.texts) + len(data.images))
    return group[: len(data.texts)], group[len(data.texts) :]


def _related(data: EmbeddingSet) -> np.ndarray:
    relevance = data.relevance_matrix("t2i").tocoo()
    return np.stack([relevance.row.astype(np.int64), relevance.col.astype(np.int64) + len(data.texts)])


def _joined(edges: np.ndarray, size: int) -> tuple[int, np.ndarray]:
    graph = coo_matrix((np.ones(edges.shape[1], dtype=bool), (edges[0], edges[1])), shape=(size, size))
    count, group = connected_components(graph, directed=False)
    return count, group.astype(np.int64)


def _crowded(table: np.ndarray) -> list[float]:
    """Return, by a sample, the thresholds at which an item has so many near-duplicates that a chain is certain."""
    rows = np.unique(np.linspace(0, len(table) - 1, _SAMPLE).astype(np.int64)) if len(table) else np.zeros(0, np.int64)
    sample, found = table[rows].astype(np.float32), np.zeros(len(NEAR), dtype=np.int64)
    for start in range(0, len(table), _BLOCK):
        cosine = sample @ table[start : start + _BLOCK].astype(np.float32).T
        near = cosine[cosine > NEAR[0]]
        found += [int((near > threshold).sum()) for threshold in NEAR]
    most = (_CROWD + 1) * max(1, len(rows))  # each is its own
    return [threshold for threshold, count in zip(NEAR, found, strict=True) if count > most]


def _near(table: np.ndarray, thresholds: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of rows whose cosine is above the first of the thresholds, (2, n), and their cosines (n,)."""
    if not thresholds or not len(table):
        return np.zeros((2, 0), dtype=np.int64), np.zeros(0, dtype=np.float32)
    if len(table) > MOST:
        _, first, place = np.unique(equal_rows(table), return_index=True, return_inverse=True)
        like = first[place]
        rows = np.flatnonzero(like != np.arange(len(table)))
        return np.stack([like[rows], rows]).astype(np.int64), np.ones(len(rows), dtype=np.float32)
    found, values = [], []
    for start in range(0, len(table), _BLOCK):
        block = table[start : start + _BLOCK].astype(np.float32)
        for other in range(start, len(table), _BLOCK):
            cosine = block @ table[other : other + _BLOCK].astype(np.float32).T
            row, column = np.nonzero(cosine > thresholds[0])
            kept = row + start < column + other
            found.append(np.stack([row[kept] + start, column[kept] + other]))
            values.append(cosine[row[kept], column[kept]])
    return np.concatenate(found, axis=1).astype(np.int64), np.concatenate(values)
