"""A first stage over packed codes: what Hamming distance finds, with the inner products of signs as scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from typing_extensions import Self

from rank_xmodal.retrieval.hamming import code_distances, pack, top_codes
from rank_xmodal.retrieval.retriever import Space

_ROWS = 32_768  # candidates mapped at a time
_UNPACKED = 1 << 21  # bytes of differing codes at a time


def _packed(mapped: Callable[[np.ndarray], np.ndarray], embeddings: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the codes of embeddings and how many bits they have; some rows at a time, as vectors are much larger."""
    packed, bits = [], 0
    for start in range(0, max(1, len(embeddings)), _ROWS):
        vectors = mapped(embeddings[start : start + _ROWS])
        packed.append(pack(vectors))
        bits = vectors.shape[1]
    return np.concatenate(packed), bits


class HammingRetriever:
    """Looks at the code of every candidate, and keeps nothing else of them.

    Parameters
    ----------
    space : Space
        Its maps give real vectors whose signs are the codes, such as a `quantisers.Quantiser`.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.codes: np.ndarray | None = None  # (m, bits / 8 rounded up), uint8
        self.bits = 0

    def index(self, candidates: np.ndarray) -> Self:
        """Map and pack the corpus once, some rows at a time, and return itself.

        Raises
        ------
        UserError
            If a mapped number is NaN or there are more than 4,096 of them.
        """
        self.codes, self.bits = _packed(self.space.map_candidates, candidates)
        return self

    @property
    def kept(self) -> np.ndarray:
        """The packed corpus, (m, bits / 8 rounded up) uint8."""
        return self._corpus("kept")

    def over(self, kept: np.ndarray) -> Self:
        """Take packed codes of this space, and return itself."""
        self.codes, self.bits = kept, 0
        return self

    def top(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows (Q, k) int64 and scores (Q, k) float32, highest first, ties by ascending row.

        A score is the inner product of two codes as -1 and +1, ``bits - 2 * distance``.

        Raises
        ------
        RuntimeError
            If there is no corpus yet.
        ValueError
            If the numbers of bits differ or k is out of range.
        """
        codes = self._corpus("top")
        rows, distances = top_codes(self._asked(queries), codes, k)
        return rows, self._products(distances)

    def pairs(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the scores (Q, L) float32 of queries and rows (Q, L); as of `top`.

        Raises
        ------
        RuntimeError
            If there is no corpus yet.
        ValueError
            If the numbers of bits differ.
        """
        codes, asked = self._corpus("pairs"), self._asked(queries)
        found = np.empty(rows.shape, dtype=np.float32)
        height = max(1, _UNPACKED // max(1, rows.shape[1] * codes.shape[1]))
        for start in range(0, len(rows), height):  # what differs is as large as all the codes that are asked for
            part = slice(start, start + height)
            found[part] = self._products(code_distances(asked[part, None], codes[rows[part]]))
        return found

    def scores(self, queries: np.ndarray) -> Iterator[np.ndarray]:
        """Yield each query's scores of the whole corpus, (m,) float32; as of `top`.

        Raises
        ------
        RuntimeError
            If there is no corpus yet.
        ValueError
            If the numbers of bits differ.
        """
        codes = self._corpus("scores")
        for asked in self._asked(queries):
            yield self._products(code_distances(asked, codes))

    def _corpus(self, asking: str) -> np.ndarray:
        if self.codes is None:
            raise RuntimeError(f"index comes before {asking}.")
        return self.codes

    def _asked(self, queries: np.ndarray) -> np.ndarray:
        """Return the codes of queries, (Q, width)."""
        codes, bits = _packed(self.space.map_queries, queries)
        if not self.bits and self._corpus("search").shape[1] == codes.shape[1]:
            self.bits = bits  # of codes that are packed already, queries know it
        if bits != self.bits:
            raise ValueError(f"queries have {bits} bits, candidates {self.bits}: map both to as many.")
        return codes

    def _products(self, distances: np.ndarray) -> np.ndarray:
        """Return the inner products of codes as -1 and +1."""
        return (self.bits - 2 * distances).astype(np.float32)
