"""The query bank: training queries that show which candidates are hubs, near to everything that is asked.

Hubness as in CSLS (Conneau et al. 2018, arXiv 1710.04087) and query-bank normalisation (Bogolin et al. 2022,
arXiv 2112.12777): a candidate's cosines to its nearest bank queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.retrieval.first_stage import Opposite, retriever_of
from rank_xmodal.retrieval.retriever import Retriever, Space

NEIGHBOURS = 10  # the k of CSLS
# The sharpness of the inverted softmax (Smith et al. 2017, arXiv 1702.03859) in the cosines of CLIP, whose own
# temperature is 0.01; a softer one is closer to the plain mean that hubness already is.
TEMPERATURE = 0.02
# Kept beside those ten, so that ten remain when a training query and its siblings are left out.
_SPARE = 10
_BLOCK = 65_536  # training candidates whose neighbours are looked for at a time
LARGEST = 20_000  # queries in a bank; more change a candidate's ten nearest little and cost memory at every start


@dataclass(frozen=True)
class Neighbours:
    """The nearest bank queries of every candidate, nearest first.

    Attributes
    ----------
    cosine : Tensor (n_candidates, k), float32; -inf where there are fewer.
    group : Tensor (n_candidates, k), int64
        Which queries belong together (they ask for the same thing); -1 where unknown.
    """

    cosine: torch.Tensor
    group: torch.Tensor

    @classmethod
    def none(cls, candidates: int) -> Neighbours:
        """Return what a ranker without hubness needs of so many candidates: nothing."""
        return cls(torch.empty(candidates, 0), torch.empty(candidates, 0, dtype=torch.int64))

    @classmethod
    def join(cls, tables: Sequence[Neighbours]) -> Neighbours:
        """Return the candidates of several tables, of several banks; smaller banks than ten queries have fewer."""
        width = max(table.cosine.shape[1] for table in tables)
        return cls(
            torch.cat([padded(table.cosine, width, -torch.inf) for table in tables]),
            torch.cat([padded(table.group, width, -1) for table in tables]),
        )

    def of(self, rows: np.ndarray) -> Neighbours:
        """Return those of some candidates, (n,) int."""
        return Neighbours(self.cosine[rows], self.group[rows])

    def to(self, device: torch.device) -> Neighbours:
        """Return the same on `device`."""
        return Neighbours(self.cosine.to(device), self.group.to(device))


def padded(values: torch.Tensor, width: int, filler: float) -> torch.Tensor:
    """Return (n, k, ...) as (n, `width`, ...)."""
    behind = values.new_full((len(values), width - values.shape[1], *values.shape[2:]), filler)
    return torch.cat([values, behind], dim=1)


def choose_bank(data: EmbeddingSet, direction: Direction, *, largest: int = LARGEST, seed: int = 0) -> np.ndarray:
    """Return the rows of at most `largest` training queries, ascending."""
    rows = data.query_rows(direction, "train")
    if len(rows) > largest:
        rows = np.sort(np.random.default_rng(seed).choice(rows, largest, replace=False))
    return rows


def query_groups(data: EmbeddingSet, direction: Direction) -> np.ndarray:
    """Return for every query the first candidate that is relevant to it, (n_queries,) int64, -1 where there is none.

    Queries of one group are siblings: a caption and the other captions of its image.
    """
    matrix = data.relevance_matrix(direction)
    matrix.sort_indices()
    groups = np.full(matrix.shape[0], -1, dtype=np.int64)
    has = np.diff(matrix.indptr) > 0
    groups[has] = matrix.indices[matrix.indptr[:-1][has]]
    return groups


def neighbours(
    candidates: np.ndarray, bank: np.ndarray, own: sp.csr_matrix | None = None, space: Space | None = None
) -> Neighbours:
    """Find every candidate's nearest bank queries that don't ask for it (use, test).

    Parameters
    ----------
    candidates : ndarray (n, d), L2-normalised
    bank : ndarray (m, d), L2-normalised
    own : csr_matrix (n, m) or None
        Which bank queries ask for which candidates, see `own_queries`; None where none does.
    space : Space or None
        Where they are to be compared; None to compare them as they are.
    """
    spare = 0 if own is None else int(np.diff(own.indptr).max(initial=0))
    rows, cosine = _indexed(bank, space).top(candidates, min(NEIGHBOURS + spare, len(bank)))
    if own is not None and spare:
        cosine, order = _without(own.tocoo(), rows, cosine, len(bank))
        rows, cosine = (np.take_along_axis(table, order[:, :NEIGHBOURS], 1) for table in (rows, cosine))
    return Neighbours(torch.from_numpy(cosine), torch.full(rows.shape, -1, dtype=torch.int64))


def _indexed(bank: np.ndarray, space: Space | None) -> Retriever:
    """Return what finds candidates' nearest of the bank."""
    return retriever_of(None if space is None else Opposite(space)).index(bank)


def own_queries(
    data: EmbeddingSet, direction: Direction, candidate_rows: np.ndarray, bank: np.ndarray
) -> sp.csr_matrix:
    """Return which queries of a bank ask for which candidates of a set, (n, m) bool.

    A corpus may hold training items. Their own queries would make them look like hubs. The bank's queries are known
    again by their embeddings.
    """
    number: dict[bytes, int] = {}  # of each embedding; several queries may have the same
    same = [number.setdefault(row.tobytes(), len(number)) for row in np.ascontiguousarray(bank, dtype=np.float16)]
    of_bank = sp.csr_matrix((np.ones(len(bank), dtype=bool), (same, np.arange(len(bank)))), (len(number), len(bank)))
    queries = np.ascontiguousarray(data.queries(direction), dtype=np.float16)
    at = np.array([number.get(row.tobytes(), -1) for row in queries], dtype=np.int64)
    found = data.relevance_matrix(direction)[:, candidate_rows].tocoo()
    kept = at[found.row] >= 0
    ones = np.ones(int(kept.sum()), dtype=bool)
    asked = sp.csr_matrix((ones, (found.col[kept], at[found.row[kept]])), (len(candidate_rows), len(number)))
    return sp.csr_matrix(asked @ of_bank)


def _without(own: sp.coo_matrix, rows: np.ndarray, cosine: np.ndarray, bank: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosines with -inf at a candidate's own queries, and the order that puts these last."""
    keys = np.arange(len(rows))[:, None] * bank + rows
    asked = np.isin(keys, own.row.astype(np.int64) * bank + own.col)
    cosine = np.where(asked, -np.inf, cosine).astype(np.float32)
    return cosine, np.argsort(-cosine, axis=1, kind="stable")


def training_neighbours(
    data: EmbeddingSet,
    direction: Direction,
    bank_rows: np.ndarray,
    candidate_rows: np.ndarray,
    space: Space | None = None,
) -> Neighbours:
    """Find some candidates' nearest bank queries among those that don't ask for them.

    At test no bank query asks for a candidate; a training candidate's own captions would make it look like a hub.
    The spare neighbours allow for leaving out a list's own query (`leave_out`). Cosines are taken in `space`, which
    is CLIP's own by default.
    """
    matrix = data.relevance_matrix(direction)[bank_rows][:, candidate_rows].T.tocsr()  # candidates x bank
    own = int(np.diff(matrix.indptr).max(initial=0))
    k = min(NEIGHBOURS + _SPARE + own, len(bank_rows))
    index = _indexed(data.queries(direction)[bank_rows], space)
    group = query_groups(data, direction)[bank_rows]
    shape = len(candidate_rows), min(NEIGHBOURS + _SPARE, k)
    cosines, groups = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.int64)
    for start in range(0, shape[0], _BLOCK):
        part = slice(start, start + _BLOCK)
        rows, cosine = index.top(np.asarray(data.candidates(direction)[candidate_rows[part]]), k)
        cosine, order = _without(matrix[part].tocoo(), rows, cosine, len(bank_rows))
        order = order[:, : shape[1]]
        cosines[part] = np.take_along_axis(cosine, order, 1)
        groups[part] = np.take_along_axis(group[rows], order, 1)
    return Neighbours(torch.from_numpy(cosines), torch.from_numpy(groups))


def leave_out(cosine: torch.Tensor, group: torch.Tensor, query_group: torch.Tensor) -> torch.Tensor:
    """Drop from each candidate's neighbours the list's own query and its siblings; return the nearest ten left.

    Parameters
    ----------
    cosine, group : Tensor (B, L, k)
    query_group : Tensor (B,), int64; -1 for a query that is no training query.

    Returns
    -------
    Tensor (B, L, at most 10), float32, descending; -inf where fewer are left.
    """
    keep = min(NEIGHBOURS, cosine.shape[-1])
    if keep == 0 or (cosine.shape[-1] == keep and not bool((query_group >= 0).any())):
        return cosine
    same = (group == query_group[:, None, None]) & (group >= 0)
    return cosine.masked_fill(same, -torch.inf).topk(keep, dim=-1).values


def hubness(neighbour_cosine: torch.Tensor) -> torch.Tensor:
    """Return the mean over the neighbours, (..., k) -> (...); 0 where a candidate has none."""
    valid = torch.isfinite(neighbour_cosine)
    total = torch.where(valid, neighbour_cosine, 0.0).sum(-1)
    return total / valid.sum(-1).clamp(min=1)


def soft_maximum(neighbour_cosine: torch.Tensor) -> torch.Tensor:
    """Return T log sum exp(cosine / T) over the neighbours, (..., k) -> (...); 0 where a candidate has none."""
    valid = torch.isfinite(neighbour_cosine)
    some = valid.any(-1, keepdim=True)
    kept = torch.where(some, neighbour_cosine, 0.0)
    return torch.where(some[..., 0], TEMPERATURE * torch.logsumexp(kept / TEMPERATURE, dim=-1), 0.0)
