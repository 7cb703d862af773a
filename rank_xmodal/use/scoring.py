"""Scores of what a first stage found."""

from __future__ import annotations

import numpy as np
import torch

from rank_xmodal.lists.content import Content
from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.list_tokens import ListTokens
from rank_xmodal.retrieval.exact import exact_cosine
from rank_xmodal.retrieval.first_stage import retriever_of
from rank_xmodal.retrieval.retriever import Space, Unmapped
from rank_xmodal.scorers.stack import Stack
from rank_xmodal.use.store import Found


def first_scores(stack: Stack, space: Space | None, asked: np.ndarray, found: Found) -> tuple[np.ndarray, np.ndarray]:
    """Return CLIP's cosine, or what stands for it, and the base's score, each (Q, L) float32."""
    first, part, place = found.scores, found.part, found.place
    by_clip = part.first is None
    if first is None:
        kept = part.embeddings if part.first is None else part.first
        first = retriever_of(space).over(kept).pairs(asked, place)
    # Features of two kinds have no other cosine.
    cosine = first
    if not by_clip and not stack.dims:
        cosine = exact_cosine(asked, part.embeddings, np.arange(len(asked)), place)
    assert cosine is not None
    if isinstance(stack.space, Unmapped):
        return cosine, cosine
    if part.base is part.first:
        assert first is not None
        return cosine, first
    assert part.base is not None
    return cosine, retriever_of(stack.space).over(part.base).pairs(asked, place)


def scored(
    stack: Stack,
    device: torch.device,
    asked: np.ndarray,
    start: int,
    found: Found,
    base: np.ndarray,
    local: ListTokens | None,
    look: Content | None,
) -> torch.Tensor:
    """Return the scorer's score of every place, (Q, L) float32 on the CPU; `base` (Q, L) is the base's."""
    scorer, part = stack.scorer, found.part
    if not found.rows.size:
        return torch.empty(found.rows.shape)
    needed = scorer.needs.candidates or (part.projected is None and look is None)
    offered = part.embeddings if needed else part.embeddings[:, :0]
    place = np.maximum(found.place, 0)
    rows = torch.from_numpy(np.maximum(found.rows, 0))
    query_row = torch.arange(start, start + len(asked))
    if not len(part):  # padding alone
        return torch.full(found.rows.shape, -torch.inf)
    batch = ListBatch(
        query=torch.from_numpy(asked).to(device).float(),
        candidates=torch.from_numpy(offered[place]).to(device).float(),
        cosine=torch.from_numpy(base).to(device),
        neighbour_cosine=torch.from_numpy(part.neighbours[place]).to(device),
        mask=torch.from_numpy(found.rows >= 0).to(device),
        query_row=query_row.to(device),
        rows=rows.to(device),
        projected=None if part.projected is None else torch.from_numpy(part.projected[place]).to(device),
        tokens=None if local is None else local.batch(query_row, rows).to(device),
        content=look,
    )
    scores = scorer.score(batch).float().cpu()
    return scores.masked_fill(torch.from_numpy(found.rows < 0), -torch.inf)
