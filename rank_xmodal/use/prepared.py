"""What a search reads of each candidate, worked out once a corpus."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from rank_xmodal.retrieval.first_stage import retriever_of
from rank_xmodal.retrieval.retriever import Space, Unmapped
from rank_xmodal.scorers.stack import Stack
from rank_xmodal.use.given import as_array
from rank_xmodal.use.normalise import as_they_are, normalised

_BLOCK = 65_536  # candidates prepared at a time


@dataclass(frozen=True)
class Prepared:
    """Tables of n candidates, row by row; in memory or mapped from a file.

    Attributes
    ----------
    embeddings : ndarray (n, d), float16, L2-normalised; float32 as they are where sides are not aligned
    neighbours : ndarray (n, k), float32
        Cosines with their nearest bank queries; none (k = 0) where the scorer doesn't look at them.
    projected : ndarray (n, p) or None
        What the scorer made of each candidate alone.
    first : ndarray (n, w) or None
        The candidates in the space that the first stage searches, of codes packed; None where that is CLIP's.
    base : ndarray (n, w) or None
        The same of the base's space; `first` itself where both are one.
    """

    embeddings: np.ndarray
    neighbours: np.ndarray
    projected: np.ndarray | None = None
    first: np.ndarray | None = None
    base: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.embeddings)

    def tables(self) -> dict[str, np.ndarray]:
        """Return the tables that there are by name; what is one with another, once."""
        found = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        if self.base is self.first:
            del found["base"]
        return {name: table for name, table in found.items() if table is not None}

    @classmethod
    def of_tables(cls, tables: dict[str, np.ndarray], same_space: bool) -> Prepared:
        """Return what `tables` took apart; `same_space` says that the base's space is the first stage's."""
        base = tables.get("first") if same_space else tables.get("base")
        return cls(tables["embeddings"], tables["neighbours"], tables.get("projected"), tables.get("first"), base)

    def take(self, rows: np.ndarray) -> Prepared:
        """Return copies of some rows."""
        return Prepared.of_tables({name: table[rows] for name, table in self.tables().items()}, self.base is self.first)

    def joined(self, other: Prepared) -> Prepared:
        """Return these candidates and then others."""
        theirs = other.tables()
        both = {name: np.concatenate([table, theirs[name]]) for name, table in self.tables().items()}
        return Prepared.of_tables(both, self.base is self.first)


def checked_candidates(stack: Stack, embeddings: Any) -> np.ndarray:
    """Return candidates as an index keeps them: (n, d) float16 of length 1, or float32 as they are.

    Raises
    ------
    ValueError
        If the shape is wrong, or a row is zero or not finite.
    """
    array, dims = as_array(embeddings), stack.dims
    if dims is None:
        return normalised(array, int(stack.bank.shape[1]), "embeddings")
    return as_they_are(array, dims[1], "embeddings")


def prepare(
    stack: Stack, space: Space | None, embeddings: np.ndarray, own: sp.csr_matrix | None, device: torch.device
) -> Prepared:
    """Work out all that a search reads of candidates, some rows at a time.

    Parameters
    ----------
    stack : Stack
    space : Space or None
        Where the first stage searches; None for CLIP's own.
    embeddings : ndarray (n, d), as `Prepared` keeps them
    own : csr_matrix (n, bank) or None
        As `query_bank.neighbours` takes it.
    device : torch.device

    Raises
    ------
    ValueError
        If `own` is of another shape.
    """
    if own is not None and own.shape != (shape := (len(embeddings), len(stack.bank))):
        raise ValueError(f"own has shape {own.shape}: give {shape}, candidates and queries of the bank.")
    parts = [
        _of_some(stack, space, embeddings[start : start + _BLOCK], None if own is None else own[start : start + _BLOCK],
                 device)
        for start in range(0, max(1, len(embeddings)), _BLOCK)
    ]  # fmt: skip
    if len(parts) == 1:
        return parts[0]
    same = space is stack.space
    tables = [part.tables() for part in parts]
    return Prepared.of_tables({name: np.concatenate([table[name] for table in tables]) for name in tables[0]}, same)


def _of_some(
    stack: Stack, space: Space | None, embeddings: np.ndarray, own: sp.csr_matrix | None, device: torch.device
) -> Prepared:
    with torch.inference_mode():
        projected = stack.scorer.project(torch.from_numpy(np.ascontiguousarray(embeddings)).to(device))
    first = None if space is None else mapped(space, embeddings)
    base = first if space is stack.space else mapped(stack.space, embeddings)
    near = stack.neighbours(embeddings, own).cosine.numpy()
    return Prepared(embeddings, near, None if projected is None else projected.cpu().numpy(), first, base)


def mapped(space: Space, embeddings: np.ndarray) -> np.ndarray | None:
    """Return candidates as a first stage keeps them in a space, None where that is CLIP's own: as they are."""
    return None if isinstance(space, Unmapped) else retriever_of(space).index(embeddings).kept
