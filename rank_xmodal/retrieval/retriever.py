"""A first stage: which candidates of a corpus a query is answered with, in some space of both sides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from typing_extensions import Self

from rank_xmodal.retrieval.exact import exact_cosine, top_candidates


class Space(Protocol):
    """Where a query and a candidate are compared by their inner product: CLIP's own, or where a projection leads.

    Where only the signs of the vectors count, as -1 and +1, an attribute `of_codes` says so, and is true.
    """

    def map_queries(self, embeddings: np.ndarray) -> np.ndarray:
        """Return (n, d) embeddings of the side that asks as (n, k), any float; CLIP's own of length 1."""
        ...

    def map_candidates(self, embeddings: np.ndarray) -> np.ndarray:
        """Return (m, d) embeddings of the side that is ranked as (m, k), any float; CLIP's own of length 1."""
        ...


class Unmapped:
    """CLIP's own space: every embedding stays as it is, a memory map included."""

    def map_queries(self, embeddings: np.ndarray) -> np.ndarray:
        """Return `embeddings`."""
        return embeddings

    def map_candidates(self, embeddings: np.ndarray) -> np.ndarray:
        """Return `embeddings`."""
        return embeddings


class Retriever(Protocol):
    """Finds the top candidates of a query in a corpus."""

    def index(self, candidates: np.ndarray) -> Self:
        """Take the corpus, (m, d) embeddings of the encoder, and return itself."""
        ...

    @property
    def kept(self) -> np.ndarray:
        """What it keeps of the corpus, a row for each candidate."""
        ...

    def over(self, kept: np.ndarray) -> Self:
        """Take what another of the same space kept of a corpus, and return itself."""
        ...

    def top(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows (Q, k) int64 of the corpus and scores (Q, k) float32, highest first, ties by ascending row."""
        ...

    def pairs(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the scores (Q, L) float32 of each query with some of the corpus, by their rows (Q, L)."""
        ...

    def scores(self, queries: np.ndarray) -> Iterator[np.ndarray]:
        """Yield each query's scores of the whole corpus, (m,) float32."""
        ...


class ExactRetriever:
    """Looks at every candidate.

    Parameters
    ----------
    space : Space
        Where cosines are taken; CLIP's own by default.
    """

    def __init__(self, space: Space | None = None) -> None:
        self.space: Space = space or Unmapped()
        self.candidates: np.ndarray | None = None  # mapped

    def index(self, candidates: np.ndarray) -> Self:
        """Map the corpus once, and return itself."""
        self.candidates = self.space.map_candidates(candidates)
        return self

    @property
    def kept(self) -> np.ndarray:
        """The mapped corpus, (m, k); CLIP's own embeddings as they are."""
        return self._corpus("kept")

    def over(self, kept: np.ndarray) -> Self:
        """Take a mapped corpus, and return itself."""
        self.candidates = kept
        return self

    def top(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows (Q, k) and cosines (Q, k), see `exact.top_candidates`.

        Raises
        ------
        RuntimeError
            If there is no corpus yet.
        ValueError
            If the widths differ or k is out of range.
        """
        return top_candidates(self.space.map_queries(queries), self._corpus("top"), k)

    def pairs(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the cosines (Q, L) of queries and rows (Q, L), see `exact.exact_cosine`.

        Raises
        ------
        RuntimeError
            If there is no corpus yet.
        """
        return exact_cosine(self.space.map_queries(queries), self._corpus("pairs"), np.arange(len(queries)), rows)

    def scores(self, queries: np.ndarray) -> Iterator[np.ndarray]:
        """Yield each query's cosines with the whole corpus, (m,), as float32 sums them.

        Raises
        ------
        RuntimeError
            If there is no corpus yet.
        """
        offered = self._corpus("scores").astype(np.float32, copy=False)
        for query in self.space.map_queries(queries):
            yield offered @ query.astype(np.float32)

    def _corpus(self, asking: str) -> np.ndarray:
        if self.candidates is None:
            raise RuntimeError(f"index comes before {asking}.")
        return self.candidates
