"""What a search returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Hits:
    """Search results, best first; of a single query without the dimension Q.

    Attributes
    ----------
    ids : ndarray (Q, k)
    rows : ndarray (Q, k), int64
        Where in the corpus they stand; -1 where a query was given fewer candidates than others.
    scores : ndarray (Q, k), float32
        The ranker's; comparable within a query. -inf where there is no candidate.
    cosine : ndarray (Q, k), float32
        CLIP's, whatever found the candidate; where images and texts share no space, the first stage's score, of codes
        their inner product.
    probability : ndarray (Q, k), float64, or None
        Of relevance, comparable across queries; where the ranker was trained with calibrate=true.
    """

    ids: np.ndarray
    rows: np.ndarray
    scores: np.ndarray
    cosine: np.ndarray
    probability: np.ndarray | None = None

    def take(self, places: np.ndarray, scores: np.ndarray) -> Hits:
        """Return some of each query's hits, (Q, k) of their places, with scores of their own."""
        ids, rows, cosine = (np.take_along_axis(part, places, 1) for part in (self.ids, self.rows, self.cosine))
        known = self.probability
        return Hits(ids, rows, scores, cosine, None if known is None else np.take_along_axis(known, places, 1))

    def single(self) -> Hits:
        """Return the hits of the only query, (k,)."""
        known = self.probability
        return Hits(self.ids[0], self.rows[0], self.scores[0], self.cosine[0], None if known is None else known[0])
