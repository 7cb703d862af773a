"""The ranked gallery of a split: the first stage's top list for every query, and what it leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rank_xmodal.data.candidate_lists import CandidateLists
from rank_xmodal.data.checks import check_common_space
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.retrieval.exact import exact_cosine
from rank_xmodal.retrieval.first_stage import retriever_of
from rank_xmodal.retrieval.retriever import Retriever, Space, Unmapped

DEPTH = 51
"""Candidates that the first stage hands to a scorer, unless told otherwise."""
CLIP = "clip"
"""What the first stage is called where it is CLIP's own cosine."""
_CLOSE = 1e-4  # of the greatest score: sums in float32 that differ by less are compared exactly
_TOGETHER = 1_024  # queries whose close candidates are compared at a time


@dataclass(frozen=True)
class RankedGallery:
    """The first stage's top list for every query of a split, out of the split's whole gallery.

    Attributes
    ----------
    lists : CandidateLists
        In the order of the first stage, ties by row; their `cosine` is CLIP's, whatever the first stage; where the
        sides are not aligned, the first stage's: of codes their inner product.
    n_relevant : Tensor (Q,), int64
        Relevant candidates in the gallery.
    rank_below : Tensor (Q,), float64
        Where the list holds nothing relevant: the rank of the best relevant candidate in the gallery. Reordering the
        list can't change it. Elsewhere infinite.
    size : int
        Candidates in the gallery.
    """

    lists: CandidateLists
    n_relevant: torch.Tensor
    rank_below: torch.Tensor
    size: int

    @property
    def ceiling(self) -> float:
        """Share of queries whose list holds a relevant candidate: no reordering can exceed it."""
        return float((self.lists.labels > 0).any(axis=1).mean())

    @classmethod
    def join(cls, parts: Sequence[RankedGallery]) -> RankedGallery:
        """Return the ranked gallery of all queries from those of blocks of them, of the same gallery and depth."""
        lists = [part.lists for part in parts]
        whole = CandidateLists(
            np.concatenate([one.query for one in lists]),
            np.concatenate([one.candidates for one in lists]),
            np.concatenate([one.labels for one in lists]),
            np.concatenate([one.cosine for one in lists]),
            lists[0].info,
        )
        return cls(
            whole,
            torch.cat([part.n_relevant for part in parts]),
            torch.cat([part.rank_below for part in parts]),
            parts[0].size,
        )

    @classmethod
    def of_mined(cls, lists: CandidateLists) -> RankedGallery:
        """Take mined lists as what a ranking is judged on: relevant is what their labels say, nothing else."""
        relevant = torch.from_numpy((lists.labels > 0).sum(axis=1).astype(np.int64))
        return cls(lists, relevant, torch.full((len(lists),), torch.inf, dtype=torch.float64), lists.length)


def has_split(data: EmbeddingSet, direction: Direction, split: str) -> bool:
    """Say whether the split has a query with a relevant candidate in it."""
    table = data.images if direction == "t2i" else data.texts
    return bool((table["split"] == split).any()) and len(data.query_rows(direction, split)) > 0


def judged_queries(data: EmbeddingSet, direction: Direction, split: str) -> np.ndarray:
    """Return the rows of the split's queries that have a relevant candidate in it.

    Raises
    ------
    UserError
        If there is none.
    """
    rows = data.query_rows(direction, split)
    if len(rows) == 0:
        where = data.root or data.name
        said = f"{where}: no {direction} query of split {split!r} has a relevant candidate in it, and nothing can be"
        raise UserError(f"{said} judged by it. Name another split.")
    return rows


def rank_gallery(
    data: EmbeddingSet,
    direction: Direction,
    split: str,
    depth: int = DEPTH,
    *,
    space: Space | None = None,
    first_stage: str = CLIP,
    queries: np.ndarray | None = None,
) -> RankedGallery:
    """Rank the split's gallery for every query that has a relevant candidate in it.

    Parameters
    ----------
    data : EmbeddingSet
    direction : "t2i" or "i2t"
    split : str
    depth : int
        Length of the lists; all of a smaller gallery.
    space : Space or None
        Where the first stage takes its cosines, or compares codes; None for CLIP's own space.
    first_stage : str
        What reports call it.
    queries : ndarray (Q,), int, or None
        Those of these queries alone.

    Raises
    ------
    UserError
        If the split is empty or has nothing to judge by, or the sides are not aligned and there is no space to compare
        them in.
    """
    if space is None:
        check_common_space(data)
    gallery = data.candidate_rows(direction, split)
    queries = judged_queries(data, direction, split) if queries is None else queries
    depth = min(depth, len(gallery))
    asked = np.asarray(data.queries(direction)[queries])
    offered = np.asarray(data.candidates(direction)[gallery])
    retriever = retriever_of(space).index(offered)
    rows, scores = retriever.top(asked, depth)
    candidates = gallery[rows]
    cosine = scores
    if data.aligned and space is not None and not isinstance(space, Unmapped):
        cosine = exact_cosine(asked, offered, np.arange(len(rows)), rows)
    labels = data.grades(direction, queries, candidates)
    relevant = data.relevance_matrix(direction)[queries][:, gallery].tocsr()
    info = {
        "direction": direction,
        "split": split,
        "protocol": "gallery",
        "first_stage": first_stage,
        "fingerprint": data.fingerprint,
    }
    lists = CandidateLists(queries.astype(np.int32), candidates.astype(np.int32), labels, cosine, info)
    return RankedGallery(
        lists=lists,
        n_relevant=torch.from_numpy(np.diff(relevant.indptr).astype(np.int64)),
        rank_below=torch.from_numpy(_ranks_below(retriever, asked, relevant, labels)),
        size=len(gallery),
    )


def _ranks_below(retriever: Retriever, asked: np.ndarray, relevant: Any, labels: np.ndarray) -> np.ndarray:
    """Return `RankedGallery.rank_below`, (Q,) float64; `relevant` is the sparse matrix of queries and gallery."""
    below = np.full(len(asked), np.inf)
    missed = np.flatnonzero(~(labels > 0).any(axis=1))
    for start in range(0, len(missed), _TOGETHER):
        some = missed[start : start + _TOGETHER]
        own = [relevant.indices[relevant.indptr[place] : relevant.indptr[place + 1]] for place in some]
        found = [_around(*pair) for pair in zip(retriever.scores(asked[some]), own, strict=True)]
        rows = np.full((len(some), max(len(close) for _, close in found)), -1)
        for row, (_, close) in zip(rows, found, strict=True):
            row[: len(close)] = close
        scores = np.where(rows < 0, -np.inf, retriever.pairs(asked[some], rows))
        mine = np.array([np.isin(*pair) for pair in zip(rows, own, strict=True)])
        best = np.where(mine, scores, -np.inf).max(axis=1, keepdims=True)
        below[some] = 1 + np.array([above for above, _ in found]) + ((scores >= best) & ~mine).sum(axis=1)
    return below


def _around(scores: np.ndarray, own: np.ndarray) -> tuple[int, np.ndarray]:
    """Return how many of the gallery are surely above a query's best relevant candidate, and which are close to it.

    Sums in float32 differ in their last bits between equal candidates: what is close has to be compared exactly, or
    what ties with the last of a list could end up inside of it.
    """
    best, gap = scores[own].max(), _CLOSE * np.abs(scores).max()
    above = scores > best + gap
    return int(above.sum()), np.flatnonzero((scores >= best - gap) & ~above)
