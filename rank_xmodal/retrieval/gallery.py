"""The ranked gallery of a split: the first stage's top list for every query, and what it leaves out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rank_xmodal.data.candidate_lists import CandidateLists
from rank_xmodal.data.checks import check_common_space
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.retrieval.exact import exact_cosine
from rank_xmodal.retrieval.first_stage import retriever_of
from rank_xmodal.retrieval.retriever import Retriever, Space, Unmapped

DEPTH = 51
"""Candidates that the first stage hands to a scorer, unless told otherwise."""
CLIP = "clip"
"""What the first stage is called where it is CLIP's own cosine."""


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
    def of_mined(cls, lists: CandidateLists) -> RankedGallery:
        """Take mined lists as what a ranking is judged on: relevant is what their labels say, nothing else."""
        relevant = torch.from_numpy((lists.labels > 0).sum(axis=1).astype(np.int64))
        return cls(lists, relevant, torch.full((len(lists),), torch.inf, dtype=torch.float64), lists.length)


def has_split(data: EmbeddingSet, direction: Direction, split: str) -> bool:
    """Say whether the split has a query with a relevant candidate in it."""
    table = data.images if direction == "t2i" else data.texts
    return bool((table["split"] == split).any()) and len(data.query_rows(direction, split)) > 0


def rank_gallery(
    data: EmbeddingSet,
    direction: Direction,
    split: str,
    depth: int = DEPTH,
    *,
    space: Space | None = None,
    first_stage: str = CLIP,
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

    Raises
    ------
    UserError
        If the split is empty, or the sides are not aligned and there is no space to compare them in.
    """
    if space is None:
        check_common_space(data)
    gallery = data.candidate_rows(direction, split)
    queries = data.query_rows(direction, split)
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


def _ranks_below(retriever: Retriever, asked: np.ndarray, relevant: object, labels: np.ndarray) -> np.ndarray:
    """Return `RankedGallery.rank_below`, (Q,) float64; `relevant` is the sparse matrix of queries and gallery."""
    below = np.full(len(asked), np.inf)
    missed = np.flatnonzero(~(labels > 0).any(axis=1))
    if not len(missed):
        return below
    for place, scores in zip(missed, retriever.scores(asked[missed]), strict=True):
        own = relevant.indices[relevant.indptr[place] : relevant.indptr[place + 1]]  # type: ignore[attr-defined]
        others = np.ones(len(scores), dtype=bool)
        others[own] = False
        below[place] = 1 + np.count_nonzero(scores[others] >= scores[own].max())
    return below
