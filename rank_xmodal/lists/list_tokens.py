"""The tokens behind candidate lists: every distinct candidate of a batch once, and where it stands in the lists."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.data.memo import memo
from rank_xmodal.data.tokens import Tokens
from rank_xmodal.lists.bags import Bag, TokenTable

_BLOCK = 64  # candidates projected at a time: an image's cells may take a quarter of a megabyte


@dataclass(frozen=True)
class LocalBatch:
    """Tokens of a batch of B lists with L places.

    Attributes
    ----------
    queries : Bag of B
    candidates : tuple of Bag, U items each
        One bag of tokens as stored; or what the scorer's `project_tokens` made of the candidates.
    place : Tensor (B, L), int64
        Which of the U stands where; at padding any.
    projected : bool
        Whether it was projected.
    """

    queries: Bag
    candidates: tuple[Bag, ...]
    place: Tensor
    projected: bool

    def to(self, device: torch.device) -> LocalBatch:
        """Return the same on a device."""
        found = tuple(bag.to(device) for bag in self.candidates)
        return LocalBatch(self.queries.to(device), found, self.place.to(device), self.projected)


@dataclass(frozen=True)
class ListTokens:
    """The tokens of all queries and candidates.

    Attributes
    ----------
    queries, candidates : TokenTable
    projected : tuple of Bag
        What was made of some candidates, once for all lists; empty where nothing was.
    at : Tensor (candidates,), int64
        Where a candidate stands in them.
    """

    queries: TokenTable
    candidates: TokenTable
    projected: tuple[Bag, ...] = ()
    at: Tensor | None = None

    @classmethod
    def of(cls, data: EmbeddingSet, direction: Direction, device: torch.device) -> ListTokens:
        """Open the tokens of a set.

        Raises
        ------
        UserError
            If it has none, or they don't belong to it.
        """
        images, texts = tables_of(data)
        asking, ranked = (texts, images) if direction == "t2i" else (images, texts)
        return cls(asking.to(device), ranked.to(device))

    def projected_by(self, project: Callable[[Bag], tuple[Bag, ...]], rows: Tensor) -> ListTokens:
        """Return the same with the candidates `rows` (int64, each once) projected."""
        parts = [project(self.candidates.take(block)) for block in rows.split(_BLOCK)]
        at = torch.full((len(self.candidates),), -1, device=rows.device)
        at[rows] = torch.arange(len(rows), device=rows.device)
        joined = tuple(Bag.join([part[k] for part in parts]) for k in range(len(parts[0])))
        return replace(self, projected=joined, at=at)

    def batch(self, query_row: Tensor, rows: Tensor) -> LocalBatch:
        """Return the tokens of queries (B,) and of their candidates (B, L), -1 at padding."""
        used, place = torch.unique(rows.clamp(min=0), return_inverse=True)
        if self.at is None:
            found: tuple[Bag, ...] = (self.candidates.take(used),)
        else:
            found = tuple(bag.take(self.at[used].clamp(min=0)) for bag in self.projected)
        return LocalBatch(self.queries.take(query_row), found, place, self.at is not None)


def _which(data: EmbeddingSet) -> Hashable:
    """Tell the tokens of sets apart; a cut has those of the whole."""
    whole = data.whole
    return str(whole.root), str(whole.meta.get("tokens"))


@memo(most=2, of=_which)  # each mapping of a file counts its pages in memory anew
def tables_of(data: EmbeddingSet) -> tuple[TokenTable, TokenTable]:
    """Return the tables of images and of texts, memory-mapped.

    Raises
    ------
    UserError
        As `Tokens.open`.
    """
    tokens = Tokens.open(data)
    return TokenTable.of_images(tokens.image), TokenTable.of_texts(tokens.text, tokens.offsets)
