"""Embeddings and candidate lists on the device: two tables and places in them.

A batch is a gather; no feature is stored. The tables hold what the lists ask for and no more of a corpus.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from rank_xmodal.data.candidate_lists import CandidateLists
from rank_xmodal.data.embedding_set import EmbeddingSet, check_direction
from rank_xmodal.files import sha256
from rank_xmodal.lists.bags import Bag
from rank_xmodal.lists.content import Content
from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.list_tokens import ListTokens
from rank_xmodal.lists.needs import Needs
from rank_xmodal.retrieval.query_bank import Neighbours, leave_out, padded, query_groups

Near = Callable[[np.ndarray], Neighbours]
"""Returns the neighbours of candidates, by their rows in the set (m,)."""


class ScoresLists(Protocol):
    """Whatever scores a batch of lists: a scorer, or the network in one."""

    @property
    def needs(self) -> Needs:
        """What it reads of a batch."""
        ...

    def project(self, candidates: torch.Tensor) -> torch.Tensor | None:
        """Return what can be made of each candidate once for all lists, (m, d) -> (m, k), or None."""
        ...

    def project_tokens(self, tokens: Bag) -> tuple[Bag, ...]:
        """Return what can be made of the candidates' tokens once for all lists; asked where it needs tokens."""
        ...

    def score(self, batch: ListBatch) -> torch.Tensor:
        """Return scores (B, L), float32; higher is better, padding's are meaningless."""
        ...


@dataclass
class ListTensors:
    """The lists of one direction with what a batch of them is gathered from, all on one device.

    Attributes
    ----------
    queries, candidates : Tensor (n, d) and (m, d), float16 as stored; candidates (m, 0) where nobody looks at them
    neighbours : Neighbours of the m candidates
    query_place : Tensor (Q,), int64
        Where the query stands in `queries`.
    places : Tensor (Q, L), int64
        Where they stand in `candidates`; padding is -1.
    query_row : Tensor (Q,), int64
        Its row in the set.
    rows : Tensor (Q, L), int64
        Theirs; padding is -1.
    labels : Tensor (Q, L), int8; padding is -1
    cosine : Tensor (Q, L), float32
        The first-stage score, see `ListBatch`.
    group : Tensor (Q,), int64
        Siblings of each list's query, left out of its candidates' hubness; -1 for none.
    features : Tensor (Q, L, F) or None
        Scores of training lists by fits that have not met them; see `Scorer.fit_out_of_fold`.
    fold : Tensor (Q,), int64, or None
        The inner fold of each list.
    projected : Tensor (m, k) or None
        See `ListBatch`.
    tokens : ListTokens or None
        Words and cells, where the scorer needs them.
    content : Content or None
        Captions and image files, where the scorer needs them.
    """

    queries: torch.Tensor
    candidates: torch.Tensor
    neighbours: Neighbours
    query_place: torch.Tensor
    places: torch.Tensor
    query_row: torch.Tensor
    rows: torch.Tensor
    labels: torch.Tensor
    cosine: torch.Tensor
    group: torch.Tensor
    features: torch.Tensor | None = None
    fold: torch.Tensor | None = None
    projected: torch.Tensor | None = None
    tokens: ListTokens | None = None
    content: Content | None = None

    @classmethod
    def gather(
        cls,
        data: EmbeddingSet,
        lists: CandidateLists,
        near: Near,
        device: torch.device,
        *,
        in_bank: bool,
        cosine: np.ndarray | None = None,
        tokens: bool = False,
        content: bool = False,
    ) -> ListTensors:
        """Put everything on `device`.

        Parameters
        ----------
        data, lists
        near : callable
            Asked once for the neighbours of the lists' candidates.
        device : torch.device
        in_bank : bool
            Whether the lists' queries may stand in the query bank (training).
        cosine : ndarray (Q, L), float32, or None
            The first-stage score; the lists' own cosines by default.
        tokens, content : bool
            Whether words and cells are needed, or captions and image files.

        Raises
        ------
        UserError
            If tokens are needed and the set has none, or they don't belong to it.
        """
        direction = check_direction(lists.direction)
        group = query_groups(data, direction)[lists.query] if in_bank else np.full(len(lists), -1)
        asked, query_place = np.unique(lists.query, return_inverse=True)
        offered, places = np.unique(lists.candidates, return_inverse=True)  # padding first, where there is any
        padding = int(len(offered) > 0 and offered[0] < 0)
        offered, places = offered[padding:], places.reshape(lists.candidates.shape) - padding
        return cls(
            # Picking rows has copied them out of the file; np.array would copy them again.
            queries=torch.from_numpy(np.asarray(data.queries(direction)[asked])).to(device),
            candidates=torch.from_numpy(np.asarray(data.candidates(direction)[offered])).to(device),
            neighbours=near(offered).to(device),
            query_place=torch.from_numpy(query_place.reshape(-1)).to(device),
            places=torch.from_numpy(places).to(device),
            query_row=torch.from_numpy(lists.query.astype(np.int64)).to(device),
            rows=torch.from_numpy(lists.candidates.astype(np.int64)).to(device),
            labels=torch.from_numpy(lists.labels).to(device),
            cosine=torch.from_numpy(lists.cosine if cosine is None else cosine).to(device),
            group=torch.from_numpy(group.astype(np.int64)).to(device),
            tokens=ListTokens.of(data, direction, device) if tokens else None,
            content=Content.of(data, direction) if content else None,
        )

    def __len__(self) -> int:
        return len(self.query_row)

    @property
    def digest(self) -> str:
        """SHA-256 over queries, candidates and labels: tells these lists from others."""
        return sha256(*(value.cpu().numpy() for value in (self.query_row, self.rows, self.labels)))

    def first(self, count: int) -> ListTensors:
        """Return the first lists alone, on the same tables."""
        of_lists = ("query_place", "places", "query_row", "rows", "labels", "cosine", "group", "features", "fold")
        return replace(self, **{k: v[:count] for k in of_lists if (v := getattr(self, k)) is not None})

    @property
    def instructive(self) -> torch.Tensor:
        """Which lists hold both a relevant and a non-relevant candidate, bool (Q,): the others teach nothing."""
        return (self.labels > 0).any(dim=1) & (self.labels == 0).any(dim=1)

    @classmethod
    def join(cls, parts: Sequence[ListTensors]) -> ListTensors:
        """Return the lists of several parts of a set, each with tables of its own; shorter lists are padded."""
        one, *others = parts
        if not others:
            return one
        length = max(part.rows.shape[1] for part in parts)
        empty = {"places": -1, "rows": -1, "labels": -1, "cosine": 0.0, "features": 0.0}
        of_lists: dict[str, Any] = {
            name: torch.cat([getattr(part, name) for part in parts])
            for name in ("queries", "candidates", "query_place", "query_row", "group")
        }
        for name, filler in empty.items():
            if getattr(one, name) is not None:
                of_lists[name] = torch.cat([padded(getattr(part, name), length, filler) for part in parts])
        counts, device = torch.tensor([len(part) for part in parts]), one.rows.device

        def behind(tables: list[torch.Tensor]) -> torch.Tensor:  # where each list's table begins
            starts = torch.tensor([0, *(len(table) for table in tables[:-1])]).cumsum(0)
            return torch.repeat_interleave(starts, counts).to(device)

        of_lists["query_place"] += behind([part.queries for part in parts])
        start = behind([part.candidates for part in parts])[:, None]
        of_lists["places"] = torch.where(of_lists["places"] < 0, -1, of_lists["places"] + start)
        return replace(
            one,
            **of_lists,
            neighbours=Neighbours.join([part.neighbours for part in parts]),
            fold=torch.repeat_interleave(torch.arange(len(parts)), counts).to(device),
        )

    def projected_by(self, scorer: ScoresLists) -> ListTensors:
        """Return the lists with every candidate and its tokens projected once.

        The candidates' embeddings are left out where nobody looks at them then.
        """
        lists = self
        if self.tokens is not None and scorer.needs.tokens:  # of the lists' candidates alone: never more than places
            used = torch.unique(self.rows.clamp(min=0))
            lists = replace(lists, tokens=self.tokens.projected_by(scorer.project_tokens, used))
        lists = lists.projected_for(scorer.project)
        return lists if scorer.needs.candidates else replace(lists, candidates=self.candidates[:, :0])

    def projected_for(self, project: Callable[[torch.Tensor], torch.Tensor | None]) -> ListTensors:
        """Return the lists with each of their candidates projected once."""
        projected = project(self.candidates)
        return self if projected is None else replace(self, projected=projected)

    def batch(self, index: torch.Tensor) -> tuple[ListBatch, torch.Tensor]:
        """Return the lists `index` (B,) as a batch in float32, and their labels (B, L)."""
        # index_select copies whole rows; an index in brackets, element by element, takes many times as long.
        rows, query_row = self.rows.index_select(0, index), self.query_row.index_select(0, index)
        mask = rows >= 0
        safe = self.places.index_select(0, index).clamp(min=0).flatten()
        near = leave_out(
            self.neighbours.cosine.index_select(0, safe).unflatten(0, rows.shape),
            self.neighbours.group.index_select(0, safe).unflatten(0, rows.shape),
            self.group.index_select(0, index),
        )
        return (
            ListBatch(
                query=self.queries.index_select(0, self.query_place.index_select(0, index)).float(),
                candidates=self.candidates.index_select(0, safe).float().unflatten(0, rows.shape),
                cosine=self.cosine.index_select(0, index),
                neighbour_cosine=near,
                mask=mask,
                query_row=query_row,
                rows=rows,
                projected=None
                if self.projected is None
                else self.projected.index_select(0, safe).unflatten(0, rows.shape),
                features=None if self.features is None else self.features.index_select(0, index),
                tokens=None if self.tokens is None else self.tokens.batch(query_row, rows),
                content=self.content,
            ),
            self.labels.index_select(0, index),
        )
