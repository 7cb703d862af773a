"""A first stage: which candidates of a corpus a query is answered with, in some space of both sides."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from typing_extensions import Self

from rank_xmodal.retrieval.exact import top_candidates


class Space(Protocol):
    """Where a query and a candidate are compared by their inner product: CLIP's own, or where a projection leads."""

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

    def top(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows (Q, k) int64 of the corpus and scores (Q, k) float32, highest first, ties by ascending row."""
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

    def top(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows (Q, k) and cosines (Q, k), see `exact.top_candidates`.

        Raises
        ------
        RuntimeError
            If there is no corpus yet.
        ValueError
            If the widths differ or k is out of range.
        """
        if self.candidates is None:
            raise RuntimeError("index comes before top.")
        return top_candidates(self.space.map_queries(queries), self.candidates, k)
