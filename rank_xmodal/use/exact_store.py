"""A corpus that is searched exactly: in memory, or in files that are mapped and grow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rank_xmodal.retrieval.first_stage import retriever_of
from rank_xmodal.retrieval.retriever import Retriever, Space
from rank_xmodal.use.prepared import Prepared
from rank_xmodal.use.store import Found, Where, gathered, ids_of, passing

_STEP = 65_536  # candidates handed on at a time
_FEW = 0.1  # share of the corpus up to which what passes a filter is copied and searched alone


class Keeper(Protocol):
    """Who keeps what a store is told, such as a folder."""

    def add(self, prepared: Prepared, items: pa.Table) -> tuple[Prepared, pa.Table]:
        """Keep more candidates, and return all."""
        ...

    def remove(self, gone: np.ndarray) -> None:
        """Keep which rows are gone, all of them (n,)."""
        ...


class ExactStore:
    """Looks at every candidate.

    Parameters
    ----------
    space : Space or None
        Where the first stage searches; None for CLIP's own.
    prepared : Prepared
    items : pa.Table
        "id" and other columns, a row for each candidate.
    gone : ndarray (n,), int64
        Rows that were removed.
    keeper : Keeper or None
        None keeps them in memory.
    """

    def __init__(
        self,
        space: Space | None,
        prepared: Prepared,
        items: pa.Table,
        gone: np.ndarray | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self.space, self.keeper = space, keeper
        self._take(prepared, items, np.empty(0, dtype=np.int64) if gone is None else gone)

    def _take(self, prepared: Prepared, items: pa.Table, gone: np.ndarray) -> None:
        kept = prepared.embeddings if prepared.first is None else prepared.first
        # One assignment: a search in another thread sees the corpus of before, or that of after.
        self.state = (prepared, items, gone, retriever_of(self.space).over(kept))

    @property
    def prepared(self) -> Prepared:
        """All candidates, removed ones too."""
        return self.state[0]

    @property
    def retriever(self) -> Retriever:
        """The first stage."""
        return self.state[3]

    def __len__(self) -> int:
        prepared, _, gone, _ = self.state
        return len(prepared) - len(gone)

    @property
    def next_row(self) -> int:
        """See `Store`."""
        return len(self.prepared)

    @property
    def rows(self) -> np.ndarray:
        """All rows but for removed ones, (n,) int64."""
        prepared, _, gone, _ = self.state
        return np.setdiff1d(np.arange(len(prepared)), gone)

    def find(self, asked: np.ndarray, depth: int, where: Where | None, height: int) -> Iterator[Found]:
        """See `Store`; ties are in the order of the rows."""
        prepared, items, gone, retriever = self.state
        if len(prepared) and not len(gone) and where is None:
            rows, scores = retriever.top(asked, min(depth, len(prepared)))
        else:
            allowed = np.ones(len(prepared), dtype=bool) if where is None else passing(items, where)
            allowed[gone] = False
            rows, scores = _top_allowed(self.space, retriever, asked, min(depth, int(allowed.sum())), allowed)
        yield from gathered(prepared, rows, scores, height)

    def fetch(self, rows: np.ndarray, height: int) -> Iterator[Found]:
        """See `Store`.

        Raises
        ------
        ValueError
            If there is no such row, or it was removed.
        """
        prepared, _, gone, _ = self.state
        if rows.size and (rows.max() >= len(prepared) or rows.min() < -1):
            wrong = rows[(rows >= len(prepared)) | (rows < -1)].flat[0]
            raise ValueError(f"row {wrong}: the index has rows 0 to {len(prepared) - 1}; -1 stands for none.")
        if len(gone) and (lost := np.isin(rows, gone)).any():
            raise ValueError(f"row {rows[lost].flat[0]}: was removed from the index.")
        yield from gathered(prepared, rows, None, height)

    def columns(self, rows: np.ndarray, names: Sequence[str] | None = None) -> pa.Table:
        """See `Store`."""
        items = self.state[1]
        return (items if names is None else items.select(list(names))).take(pa.array(rows))

    def rows_of(self, ids: Sequence[Any] | np.ndarray) -> np.ndarray:
        """See `Store`."""
        _, items, gone, _ = self.state
        wanted = ids_of(items.schema.field("id").type, ids)
        found = np.flatnonzero(pc.is_in(items["id"], value_set=wanted).to_numpy())
        return np.setdiff1d(found, gone)

    def parts(self) -> Iterator[tuple[Prepared, pa.Table]]:
        """See `Store`."""
        prepared, items, _, _ = self.state
        every = self.rows
        for start in range(0, max(1, len(every)), _STEP):
            rows = every[start : start + _STEP]
            yield prepared.take(rows), items.take(pa.array(rows))

    def add(self, prepared: Prepared, items: pa.Table) -> None:
        """See `Store`."""
        before, known, gone, _ = self.state
        if self.keeper is None:
            both = before.joined(prepared), pa.concat_tables([known, items])
        else:
            both = self.keeper.add(prepared, items)
        self._take(*both, gone)

    def remove(self, rows: np.ndarray) -> None:
        """See `Store`."""
        prepared, items, gone, _ = self.state
        gone = np.union1d(gone, rows)
        if self.keeper is not None:
            self.keeper.remove(gone)
        self._take(prepared, items, gone)


def _top_allowed(
    space: Space | None, retriever: Retriever, asked: np.ndarray, depth: int, allowed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the top `depth` of the allowed candidates (m,) bool, of which there are as many: rows and scores."""
    count, share = len(asked), allowed.mean() if len(allowed) else 0.0
    if depth == 0:
        return np.empty((count, 0), dtype=np.int64), np.empty((count, 0), dtype=np.float32)
    if share <= _FEW:
        kept = np.flatnonzero(allowed)
        rows, scores = retriever_of(space).over(retriever.kept[kept]).top(asked, depth)
        return kept[rows], scores
    wanted = int(depth / share * 1.1) + 16
    while True:  # the top of all, until there are enough allowed ones among them for every query
        wanted = min(wanted, len(allowed))
        rows, scores = retriever.top(asked, wanted)
        good = allowed[rows]
        if wanted == len(allowed) or (good.sum(1) >= depth).all():
            break
        wanted *= 2
    order = np.argsort(~good, axis=1, kind="stable")[:, :depth]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)
