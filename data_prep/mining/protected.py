"""Who must never be a negative: what is relevant to a query, its exact duplicates, what its duplicates ask for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.data.equal_rows import equal_rows


class Protected:
    """Answers whether a pair is protected; memory grows with the relevant pairs, not with all pairs."""

    def __init__(self, data: EmbeddingSet, direction: Direction) -> None:
        images, texts = _classes(data.image_emb), _classes(data.text_emb, data.texts["text"])
        self.query_class, self.candidate_class = (texts, images) if direction == "t2i" else (images, texts)
        relevant = data.relevance_matrix(direction).tocoo()
        self._width = int(self.candidate_class.max()) + 1
        self._keys = np.unique(self._key(self.query_class[relevant.row], self.candidate_class[relevant.col]))

    def _key(self, query_class: np.ndarray, candidate_class: np.ndarray) -> np.ndarray:
        return query_class.astype(np.int64) * self._width + candidate_class

    def of(self, query_rows: np.ndarray, candidate_rows: np.ndarray) -> np.ndarray:
        """Return for each pair whether it is protected, (Q,) and (Q, L) rows -> (Q, L) bool."""
        keys = self._key(self.query_class[query_rows][:, None], self.candidate_class[candidate_rows])
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return self._keys[place] == keys


def _classes(embeddings: np.ndarray, texts: pd.Series | None = None) -> np.ndarray:
    """Give rows numbers such that exact duplicates share a number: the same embedding, or the same words."""
    by_embedding = equal_rows(embeddings)
    if texts is None:
        return by_embedding
    words = np.array([" ".join(text.casefold().split()) for text in texts.astype(str).tolist()], dtype=object)
    by_words = pd.factorize(words)[0]
    # Duplicate by either: rows that share an embedding or the words are linked, and links add up.
    shape = (int(by_embedding.max()) + 1, int(by_words.max()) + 1)
    links = sp.coo_matrix((np.ones(len(by_words), dtype=np.int8), (by_embedding, by_words)), shape=shape)
    both = sp.bmat([[None, links], [links.T, None]]).tocsr()
    return connected_components(both, directed=False)[1][by_embedding]
