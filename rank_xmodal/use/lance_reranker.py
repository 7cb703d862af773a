"""Our ranker inside LanceDB's own search: ``table.search(vector).rerank(LanceReranker(reranker), "two dogs")``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from lancedb.rerankers import Reranker as Base

from rank_xmodal.use.given import as_array
from rank_xmodal.use.reranker import Reranker


class LanceReranker(Base):
    """A reranker as LanceDB takes one.

    Parameters
    ----------
    reranker : Reranker
    vector : str
        The column of the candidates' embeddings; a search must return it.
    query : ndarray or Tensor (dim,), or None
        The query's embedding; if None, that of the search's `query_string`, a caption (t2i) or an image file (i2t),
        which the frozen encoder makes.

    Raises
    ------
    ImportError
        If lancedb is not installed (the extra `lance`).

    Example
    -------
    >>> hits = table.search(embedding).limit(51).rerank(  # doctest: +SKIP
    ...     LanceReranker(reranker), "two dogs on a beach"
    ... ).to_list()
    """

    def __init__(self, reranker: Reranker, vector: str = "vector", query: Any = None) -> None:
        super().__init__("relevance")
        self.reranker, self.vector, self.query = reranker, vector, query

    def rerank_vector(self, query: str, vector_results: pa.Table) -> pa.Table:
        """Return the hits of a vector search in the ranker's order, with its score as `_relevance_score`.

        Raises
        ------
        ValueError
            If the hits lack the column of embeddings.
        """
        if self.vector not in vector_results.column_names:
            raise ValueError(
                f"LanceReranker: the hits have no column {self.vector!r}; they have "
                f"{', '.join(vector_results.column_names)}. Select it, or name yours by vector=."
            )
        if not len(vector_results):
            return self._handle_empty_results(vector_results)
        column = vector_results[self.vector].combine_chunks()
        offered = column.flatten().to_numpy(zero_copy_only=False).reshape(len(vector_results), -1)
        asked = query if self.query is None else as_array(self.query)
        hits = self.reranker.rank(asked, offered)
        ordered = vector_results.take(pa.array(hits.rows))
        return ordered.append_column("_relevance_score", pa.array(hits.scores.astype(np.float32)))

    def rerank_fts(self, query: str, fts_results: pa.Table) -> pa.Table:
        """Return the hits of a text search in the ranker's order; see `rerank_vector`."""
        return self.rerank_vector(query, fts_results)

    def rerank_hybrid(self, query: str, vector_results: pa.Table, fts_results: pa.Table) -> pa.Table:
        """Return the hits of both searches, each once, in the ranker's order; see `rerank_vector`."""
        return self.rerank_vector(query, self.merge_results(vector_results, fts_results))
