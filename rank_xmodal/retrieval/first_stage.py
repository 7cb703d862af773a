"""Which retriever fits a space: codes are packed and their bits compared, other vectors multiplied."""

from __future__ import annotations

import numpy as np

from rank_xmodal.retrieval.hamming_retriever import HammingRetriever
from rank_xmodal.retrieval.retriever import ExactRetriever, Space


def of_codes(space: Space | None) -> bool:
    """Say whether signs alone count in a space: it has an attribute `of_codes` that is true."""
    return bool(getattr(space, "of_codes", False))


def retriever_of(space: Space | None = None) -> ExactRetriever | HammingRetriever:
    """Return the retriever that fits a space, without a corpus yet.

    Both find the same candidates in the same order in a space of codes; packed codes take 32 times less memory than
    the signs as float32, and are compared much faster.

    Parameters
    ----------
    space : Space or None
        CLIP's own if None.
    """
    return HammingRetriever(space) if space is not None and of_codes(space) else ExactRetriever(space)


class Opposite:
    """A space seen from its other side: candidates ask, and queries are ranked."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.of_codes = of_codes(space)

    def map_queries(self, embeddings: np.ndarray) -> np.ndarray:
        """Return (m, d) embeddings of what the space ranks as (m, k)."""
        return self.space.map_candidates(embeddings)

    def map_candidates(self, embeddings: np.ndarray) -> np.ndarray:
        """Return (n, d) embeddings of what asks in the space as (n, k)."""
        return self.space.map_queries(embeddings)
