"""Protocol natural: the top of a random gallery as large as the one a ranker will meet; labels as they fall."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from data_prep.mining.pools import mix
from data_prep.mining.work import Lists, Part, Work, rows_of
from rank_xmodal.data.candidate_lists import PADDING
from rank_xmodal.retrieval.exact import top_candidates

_GALLERY = 2  # a word that keeps this hash apart from that of another use


def natural(work: Work, queries: np.ndarray, members: np.ndarray) -> Lists:
    """Mine the lists of queries (Q,) of one gallery, rows (m,), see the module."""
    depth = min(work.negatives + 1, len(work.gallery))
    rows = np.full((len(queries), depth), PADDING, dtype=np.int64)
    cosine = np.zeros((len(queries), depth), dtype=np.float32)
    width = min(depth, len(members))
    place, cosine[:, :width] = top_candidates(work.query_emb[queries], rows_of(work.candidate_emb, members), width)
    rows[:, :width] = members[place]
    return rows, work.data.grades(work.direction, queries, rows), cosine, {}


def parts(work: Work, queries: np.ndarray) -> Iterator[Part]:
    """Yield each gallery with the queries that search it, in parts of no more than the work's block."""
    for members, asking in _galleries(work, queries):
        for start in range(0, len(asking), work.block):
            yield Part(asking[start : start + work.block], members)


def _galleries(work: Work, queries: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Deal the candidates out into random galleries of `pool`; return each one's rows and its queries' places.

    What belongs together, as an image's captions do, stays together: a query finds all that is relevant to it in
    its gallery, as it will in use. The last gallery is filled up from the others.
    """
    relevant = work.data.relevance_matrix(work.direction)[queries][:, work.gallery].tocsr()
    links = sp.bmat([[None, relevant.T], [relevant, None]]).tocsr()
    joined = connected_components(links, directed=False)[1][: len(work.gallery)]
    group = np.unique(joined, return_inverse=True)[1]  # of each place of the gallery
    shuffled = np.argsort(mix(work.seed, _GALLERY, np.arange(group.max() + 1)), kind="stable")
    turn = np.empty_like(shuffled)
    turn[shuffled] = np.arange(len(shuffled))
    places = np.argsort(turn[group], kind="stable")  # of the gallery, group after group
    ends = np.cumsum(np.bincount(turn[group]))  # where each group ends in `places`
    asked = turn[group[relevant.indices[relevant.indptr[:-1]]]]  # the group that each query asks for
    found, first = [], 0
    while first < len(ends):
        start = ends[first - 1] if first else 0
        # Whole groups until the gallery is full: the last one may make it a little larger than `pool`.
        last = min(int(np.searchsorted(ends, start + work.pool)), len(ends) - 1)
        members = places[start : ends[last]]
        if len(members) < work.pool:
            members = np.concatenate([members, places[: work.pool - len(members)]])
        asking = np.flatnonzero((asked >= first) & (asked <= last))
        if len(asking):
            found.append((work.gallery[np.sort(members)], asking))
        first = last + 1
    return found
