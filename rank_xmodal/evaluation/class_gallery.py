"""Class-level average precision over a whole gallery, beyond the lists that a scorer puts in order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rank_xmodal import metrics
from rank_xmodal.data.embedding_set import EmbeddingSet, check_direction
from rank_xmodal.evaluation.class_level import SharedClasses, by_class
from rank_xmodal.metrics._ranking import ranked_labels
from rank_xmodal.retrieval.gallery import RankedGallery
from rank_xmodal.retrieval.retriever import Space

CLASS_MAP = "class MAP"
"""What tables call the mean over queries."""
_CELLS = 2**22  # pairs of a query and a candidate at a time
Scored = Callable[[slice, np.ndarray], Tensor]
"""Scores (B, m) of a slice of the queries for candidates, by their rows (m,)."""


def of_lists(data: EmbeddingSet, gallery: RankedGallery, scores: dict[str, Tensor], space: Space) -> dict[str, Tensor]:
    """Return each row's average precision over the whole gallery, (Q,) float64 each, by its name.

    A list is in the order of its scores; behind it stands the rest of the gallery, as the first stage has it. Relevant
    is what shares a class with the query, and all of the gallery's relevant items are divided by. Of equal scores, in
    the list or behind it, what is not relevant counts as ranked above.

    Parameters
    ----------
    data : EmbeddingSet
        Labelled.
    gallery : RankedGallery
    scores : dict of str to Tensor (Q, L)
    space : Space
        The first stage's.

    Raises
    ------
    UserError
        If the set has no labels.
    """
    listed = by_class(data, gallery)
    labels, length = torch.from_numpy(listed.lists.labels), listed.lists.length
    behind = torch.zeros(len(labels), dtype=torch.float64)
    if length < gallery.size:
        scored, shared = _products(data, gallery, space), SharedClasses.of(data, gallery)
        behind = _precisions(gallery, shared, _members(data, gallery), scored, (labels > 0).sum(1))
        behind /= listed.n_relevant.clamp(min=1)
    return {
        row: metrics.map_at_k(own, labels, length, n_relevant=listed.n_relevant) + behind for row, own in scores.items()
    }


def of_space(data: EmbeddingSet, gallery: RankedGallery, space: Space, split: str | None = None) -> Tensor:
    """Return the average precision over a whole gallery that is ranked in a space, (Q,) float64.

    Parameters
    ----------
    data : EmbeddingSet
        Labelled.
    gallery : RankedGallery
        Says who asks.
    space : Space
    split : str or None
        Whose items are ranked; the queries' own if not given.

    Raises
    ------
    UserError
        If the set has no labels, or the split is empty.
    """
    return of_scores(data, gallery, _products(data, gallery, space, split), split)


def of_scores(data: EmbeddingSet, gallery: RankedGallery, scored: Scored, split: str | None = None) -> Tensor:
    """Return the average precision over a whole gallery, (Q,) float64.

    Parameters
    ----------
    data : EmbeddingSet
        Labelled.
    gallery : RankedGallery
        Says who asks.
    scored : callable
        Returns the scores (B, m) of a slice of the queries for all that is ranked, by its rows (m,).
    split : str or None
        Whose items are ranked; the queries' own if not given.

    Raises
    ------
    UserError
        If the set has no labels, or the split is empty.
    """
    members = _members(data, gallery, split)
    shared = SharedClasses.of(data, gallery)
    count = np.bincount(shared.candidate[members], minlength=shared.has.shape[0])
    relevant = [shared.block(part) @ count for part in _parts(len(gallery.lists), len(members))]
    total = torch.from_numpy(np.concatenate(relevant)).clamp(min=1)
    return _precisions(gallery, shared, members, scored) / total


def _members(data: EmbeddingSet, gallery: RankedGallery, split: str | None = None) -> np.ndarray:
    direction = check_direction(gallery.lists.direction)
    return data.candidate_rows(direction, split or str(gallery.lists.info["split"]))


def _parts(queries: int, members: int) -> list[slice]:
    size = max(1, _CELLS // max(members, 1))
    return [slice(start, start + size) for start in range(0, queries, size)]


def _products(data: EmbeddingSet, gallery: RankedGallery, space: Space, split: str | None = None) -> Scored:
    """Return what gives the inner products of some queries with all that is ranked, in a space."""
    direction = check_direction(gallery.lists.direction)
    queries = np.asarray(data.queries(direction)[gallery.lists.query])
    asked = torch.from_numpy(np.asarray(space.map_queries(queries))).float()
    ranked = np.asarray(data.candidates(direction)[_members(data, gallery, split)])
    table = torch.from_numpy(np.asarray(space.map_candidates(ranked))).float().T
    return lambda part, members: asked[part] @ table


def _precisions(
    gallery: RankedGallery,
    shared: SharedClasses,
    members: np.ndarray,
    scored: Scored,
    hits: Tensor | None = None,
) -> Tensor:
    """Return the sum of the precisions at the ranks of all relevant items, (Q,) float64.

    With `hits`, how many relevant items each list holds, only of items outside the lists, which stand behind them.
    """
    lists = gallery.lists
    place = np.full(len(shared.candidate), -1)
    place[members] = np.arange(len(members))
    found = []
    for part in _parts(len(lists), len(members)):
        scores = scored(part, members)
        labels = torch.from_numpy(shared.block(part)[:, shared.candidate[members]]).to(torch.int8)
        ahead = torch.zeros(len(scores), 1, dtype=torch.float64)
        first = 1
        if hits is not None:
            listed = torch.from_numpy(place[lists.candidates[part]])
            scores.scatter_(1, listed, -torch.inf)
            labels.scatter_(1, listed, 0)
            ahead, first = hits[part, None].double(), 1 + lists.length
        relevant = ranked_labels(scores, labels)
        rank = torch.arange(first, first + relevant.shape[1], dtype=torch.float64)
        found.append(((ahead + relevant.cumsum(1)) / rank * relevant).sum(1))
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)
