"""What all protocols share: the gallery, one positive of each query, and its most similar candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data_prep.mining.filters import Filters
from data_prep.mining.pools import draw, mix
from data_prep.mining.protected import Protected
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.retrieval.exact import exact_cosine, top_candidates

_POSITIVE = 1  # a word that keeps this hash apart from that of another use

Lists = tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, int]]
"""Rows, labels and cosines of the lists, (Q, L) each, and by filter how many candidates it dropped."""

Top = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""From rows of queries (Q,) and a depth to places in the gallery (Q, depth) and cosines of their top candidates."""


@dataclass(frozen=True)
class Part:
    """What is mined at a time, by whoever does.

    Attributes
    ----------
    places : ndarray (Q,), int
        Which of the queries.
    gallery : ndarray (m,), int, or None
        Rows of the gallery that these search, ascending; all of the split's where it is None.
    """

    places: np.ndarray
    gallery: np.ndarray | None = None


@dataclass
class Work:
    """One mining: its inputs, and what its protocol draws from them."""

    data: EmbeddingSet
    direction: Direction
    gallery: np.ndarray
    negatives: int
    pool: int
    seed: int
    filters: Filters
    block: int
    top: Top | None = None  # where not here

    def __post_init__(self) -> None:
        self.query_emb = self.data.queries(self.direction)
        self.candidate_emb = self.data.candidates(self.direction)

    @cached_property
    def gallery_emb(self) -> np.ndarray:
        """The embeddings of the gallery, (m, d)."""
        return rows_of(self.candidate_emb, self.gallery)

    @cached_property
    def protected(self) -> Protected:
        """Who must never be a negative."""
        return Protected(self.data, self.direction)

    def blocks(self, queries: np.ndarray) -> Iterator[Part]:
        """Yield the queries (Q,) in parts of `block`."""
        for start in range(0, len(queries), self.block):
            yield Part(np.arange(start, min(start + self.block, len(queries))))

    def positives(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Choose one relevant candidate of the gallery for each query: its row (Q,) and grade (Q,)."""
        relevant = self.data.relevance_matrix(self.direction)[queries][:, self.gallery].tocsr()
        relevant.sort_indices()
        count = np.diff(relevant.indptr)
        place = relevant.indptr[:-1] + (mix(self.seed, _POSITIVE, queries) % count.astype(np.uint64)).astype(np.int64)
        return self.gallery[relevant.indices[place]], relevant.data[place].astype(np.int8)

    def ranked(self, queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the `depth` most similar candidates of each query's pool: rows (Q, depth) and cosines."""
        if self.pool == len(self.gallery):
            if self.top is not None:
                rows, cosine = self.top(queries, depth)
                return self.gallery[rows], cosine
            rows, cosine = top_candidates(self.query_emb[queries], self.gallery_emb, depth)
            return self.gallery[rows], cosine
        rows = self.gallery[draw(self.seed, queries, len(self.gallery), self.pool)]
        cosine = exact_cosine(self.query_emb, self.candidate_emb, queries, rows)
        order = np.lexsort((rows, -cosine), axis=1)[:, :depth]
        return np.take_along_axis(rows, order, 1), np.take_along_axis(cosine, order, 1)


def rows_of(embeddings: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return some rows, (m,) ascending and distinct; no copy where nothing is missing between them."""
    first, last = rows[0], rows[-1]
    return embeddings[first : last + 1] if last - first + 1 == len(rows) else embeddings[rows]


def ordered(rows: np.ndarray, labels: np.ndarray, cosine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort every list by descending cosine, ties by row: the place of the positive gives nothing away."""
    order = np.lexsort((rows, -cosine), axis=1)
    return tuple(np.take_along_axis(a, order, 1) for a in (rows, labels, cosine))  # type: ignore[return-value]
