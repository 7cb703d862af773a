"""A batch of candidate lists: what a scorer sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rank_xmodal.lists.content import Content
from rank_xmodal.lists.list_tokens import LocalBatch


@dataclass
class ListBatch:
    """A batch of B lists with L places.

    Attributes
    ----------
    query : Tensor (B, d)
    candidates : Tensor (B, L, d), or (B, L, 0) where the scorer has no use for them
    cosine : Tensor (B, L), float32
        The first-stage score: CLIP's cosine, or that of the space that the scorer stands on.
    neighbour_cosine : Tensor (B, L, k), float32
        Candidates' cosines to their nearest bank queries, in the same space; -inf where there are fewer.
    mask : Tensor (B, L), bool
        False at padding.
    query_row : Tensor (B,), int64, or None
        Rows of the queries in the embedding set, or in `content`; None where they come from elsewhere.
    rows : Tensor (B, L), int64, or None
        Rows of the candidates in the embedding set or the index; -1 at padding.
    projected : Tensor (B, L, k) or None
        The candidates as the scorer's `project` returns them, where that was done for a whole corpus.
    features : Tensor (B, L, F) or None
        Of training lists: scores by fits that have not met them; see `Scorer.fit_out_of_fold`.
    tokens : LocalBatch or None
        Words and cells of both sides; where the scorer needs them.
    content : Content or None
        Captions and image files of both sides, looked up by `query_row` and `rows`; where the scorer needs them.
    """

    query: torch.Tensor
    candidates: torch.Tensor
    cosine: torch.Tensor
    neighbour_cosine: torch.Tensor
    mask: torch.Tensor
    query_row: torch.Tensor | None = None
    rows: torch.Tensor | None = None
    projected: torch.Tensor | None = None
    features: torch.Tensor | None = None
    tokens: LocalBatch | None = None
    content: Content | None = None
