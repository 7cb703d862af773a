"""Embeddings and candidate lists on the device: two tables and row ids. A batch is a gather; no feature is stored."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from rank_xmodal.candidate_lists import CandidateLists
from rank_xmodal.embedding_set import Direction, EmbeddingSet
from rank_xmodal.query_bank import Neighbours, leave_out, query_groups
from rank_xmodal.ranker import ContextAwareRanker, ListBatch


@dataclass
class ListTensors:
    """The lists of one direction with what a batch of them is gathered from, all on one device.

    Attributes
    ----------
    queries, candidates : Tensor (n, d) and (m, d), float16 as stored; candidates (m, 0) where nobody looks at them
    neighbours : Neighbours of the m candidates
    query_row : Tensor (Q,), int64
    rows : Tensor (Q, L), int64; padding is -1
    labels : Tensor (Q, L), int8; padding is -1
    cosine : Tensor (Q, L), float32
    group : Tensor (n,), int64
        Siblings of each query, left out of its candidates' hubness; -1 for none.
    projected : Tensor (m, d_model) or None
        See `ListBatch`.
    """

    queries: torch.Tensor
    candidates: torch.Tensor
    neighbours: Neighbours
    query_row: torch.Tensor
    rows: torch.Tensor
    labels: torch.Tensor
    cosine: torch.Tensor
    group: torch.Tensor
    projected: torch.Tensor | None = None

    @classmethod
    def gather(
        cls,
        data: EmbeddingSet,
        lists: CandidateLists,
        neighbours: Neighbours,
        device: torch.device,
        *,
        in_bank: bool,
    ) -> ListTensors:
        """Put everything on `device`; `in_bank` says that the lists' queries may stand in the query bank (training)."""
        direction: Direction = "t2i" if lists.direction == "t2i" else "i2t"
        group = query_groups(data, direction) if in_bank else np.full(len(data.queries(direction)), -1)
        return cls(
            queries=torch.from_numpy(np.array(data.queries(direction))).to(device),
            candidates=torch.from_numpy(np.array(data.candidates(direction))).to(device),
            neighbours=neighbours.to(device),
            query_row=torch.from_numpy(lists.query.astype(np.int64)).to(device),
            rows=torch.from_numpy(lists.candidates.astype(np.int64)).to(device),
            labels=torch.from_numpy(lists.labels).to(device),
            cosine=torch.from_numpy(lists.cosine).to(device),
            group=torch.from_numpy(group.astype(np.int64)).to(device),
        )

    def __len__(self) -> int:
        return len(self.query_row)

    def first(self, count: int) -> ListTensors:
        """Return the first lists alone, on the same tables."""
        cut = {name: getattr(self, name)[:count] for name in ("query_row", "rows", "labels", "cosine")}
        return replace(self, **cut)

    def projected_by(self, model: object) -> ListTensors:
        """Return the lists with every candidate projected once, where the model does so and they occur more often."""
        if not isinstance(model, ContextAwareRanker) or self.rows.numel() < len(self.candidates):
            return self
        kept = self.candidates if model.needs_candidates else self.candidates[:, :0]
        return replace(self, projected=model.project(self.candidates), candidates=kept)

    def batch(self, index: torch.Tensor) -> tuple[ListBatch, torch.Tensor]:
        """Return the lists `index` (B,) as a batch in float32, and their labels (B, L)."""
        # index_select copies whole rows; an index in brackets, element by element, takes many times as long.
        rows = self.rows.index_select(0, index)
        mask = rows >= 0
        safe = rows.clamp(min=0).flatten()
        query_row = self.query_row.index_select(0, index)
        near = leave_out(
            self.neighbours.cosine.index_select(0, safe).unflatten(0, rows.shape),
            self.neighbours.group.index_select(0, safe).unflatten(0, rows.shape),
            self.group.index_select(0, query_row),
        )
        return (
            ListBatch(
                query=self.queries.index_select(0, query_row).float(),
                candidates=self.candidates.index_select(0, safe).float().unflatten(0, rows.shape),
                cosine=self.cosine.index_select(0, index),
                neighbour_cosine=near,
                mask=mask,
                projected=None
                if self.projected is None
                else self.projected.index_select(0, safe).unflatten(0, rows.shape),
            ),
            self.labels.index_select(0, index),
        )
