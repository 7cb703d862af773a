"""A corpus in a LanceDB table: for one that grows, with filters, and a first stage that looks at a part of it.

The table is searched approximately (IVF over numbers of eight bits) where it is large; how many of its parts are looked
at is chosen so that most of the exact top is found, and what is found is measured. LanceDB: lancedb.github.io.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rank_xmodal.errors import UserError
from rank_xmodal.files import locked, read_json, telling, write_json
from rank_xmodal.retrieval.first_stage import retriever_of
from rank_xmodal.retrieval.gallery import DEPTH
from rank_xmodal.retrieval.retriever import Space, Unmapped
from rank_xmodal.use.prepared import Prepared
from rank_xmodal.use.store import Found, Where, check_where

RECALL = 0.98  # of the exact top that the approximate one should find
_OWN = "rx_"  # before the names of our columns
_ROW = f"{_OWN}row"
_LARGE = 20_000  # candidates from which on a part of them is looked at
_SHARE = 20  # of the candidates, one in so many may be new to the table's index
_NAMED = 500  # values in a condition
_FACTS = "lance.json"
_TABLE = "items"


class LanceStore:
    """Candidates in a table of LanceDB.

    Parameters
    ----------
    folder : Path
        The index' folder; the table lies in it.
    space : Space or None
        Where the first stage searches; None for CLIP's own.
    same_space : bool
        Whether the base's space is the first stage's.

    Attributes
    ----------
    facts : dict
        "probes": how many parts of the table a search looks at, None for all; "recall": what share of the exact top it
        then found, on queries of the bank.
    """

    def __init__(self, folder: Path, space: Space | None, same_space: bool) -> None:
        self.folder, self.space, self.same_space = folder, space, same_space
        self.facts: dict[str, Any] = read_json(folder / _FACTS)
        self._table: Any = _database(folder).open_table(_TABLE)

    @classmethod
    def write(
        cls,
        folder: Path,
        space: Space | None,
        same_space: bool,
        parts: Iterable[tuple[Prepared, pa.Table]],
        bank: np.ndarray,
    ) -> None:
        """Write a table of candidates and their items into an index' folder, and measure its recall.

        Parameters
        ----------
        folder, space, same_space
            As the class takes them.
        parts : iterable of Prepared and Table
        bank : ndarray (m, d)
            Queries to measure with.

        Raises
        ------
        UserError
            If lancedb is not installed, or the table can't be written.
        """
        database, table, count, kinds = _database(folder), None, 0, {}
        with telling(folder):
            for prepared, items in parts:
                rows = _rows(prepared, items, count)
                kinds = {name: [part.dtype.name, part.shape[1]] for name, part in prepared.tables().items()}
                table = database.create_table(_TABLE, rows) if table is None else table
                if count:
                    table.add(rows)
                count += len(items)
            write_json(
                folder / _FACTS, {"tables": kinds, "rows": count, "indexed": count, "probes": None, "recall": 1.0}
            )
            store = cls(folder, space, same_space)
            store._reindex(int(count**0.5) if count >= _LARGE else 0)
            if count >= _LARGE:
                store._choose_probes(bank)

    def _reindex(self, parts: int) -> None:
        """Build what finds rows and ids and, of so many parts, what an approximate search needs.

        LanceDB's `optimize` would do so, too; but it also puts the table's files together, and then each search took
        seven times as long (0.40).
        """
        from lancedb.index import BTree, IvfSq

        for column in ("id", _ROW):
            self._table.create_index(column, config=BTree(), replace=True)
        if parts:
            kind = IvfSq(distance_type="dot", num_partitions=parts, sample_rate=64, max_iterations=20)
            self._table.create_index(self._searched, config=kind, replace=True)
        self.facts = {**self.facts, "indexed": self.next_row, "parts": parts}
        write_json(self.folder / _FACTS, self.facts)

    def _choose_probes(self, bank: np.ndarray) -> None:
        """Choose how many parts a search looks at."""
        parts = self.facts["parts"]
        asked = bank[np.linspace(0, len(bank) - 1, min(100, len(bank))).astype(int)]
        vectors = self._mapped(asked)
        exact = [set(self._hits(vector, DEPTH, None, None)[_ROW].to_pylist()) for vector in vectors]
        probes = max(1, parts // 64)
        while True:
            found = [set(self._hits(vector, DEPTH, None, probes)[_ROW].to_pylist()) for vector in vectors]
            recall = float(np.mean([len(a & b) / max(1, len(a)) for a, b in zip(exact, found, strict=True)]))
            if recall >= RECALL or probes >= parts:
                break
            probes = min(parts, probes + max(1, probes // 2))
        self.facts = {**self.facts, "probes": probes, "recall": recall}
        write_json(self.folder / _FACTS, self.facts)

    @property
    def _searched(self) -> str:
        return _OWN + ("embeddings" if self.space is None else "first")

    def _mapped(self, asked: np.ndarray) -> np.ndarray:
        return np.asarray((self.space or Unmapped()).map_queries(asked), dtype=np.float32)

    def __len__(self) -> int:
        return int(self._table.count_rows())

    @property
    def next_row(self) -> int:
        """See `Store`."""
        return int(self.facts["rows"])

    def _hits(self, vector: np.ndarray, depth: int, condition: str | None, probes: int | None) -> pa.Table:
        """Return what the table finds for a vector; all of it is looked at where `probes` is None."""
        names = [*self.facts["tables"], "row"]
        asked = self._table.search(vector, vector_column_name=self._searched).distance_type("dot").limit(depth)
        asked = asked.select(["id", "_distance", *(_OWN + name for name in names if self._width(name))])
        asked = asked.bypass_vector_index() if probes is None else asked.nprobes(probes)
        if condition is not None:
            asked = asked.where(condition, prefilter=True)
        return asked.to_arrow()

    def _width(self, name: str) -> int:
        return 1 if name == "row" else int(self.facts["tables"][name][1])

    def find(self, asked: np.ndarray, depth: int, where: Where | None, height: int) -> Iterator[Found]:
        """See `Store`; approximately where the table is large."""
        condition = None if where is None else self._condition(where)
        vectors = self._mapped(asked)
        for start in range(0, len(asked), height):
            found = [
                self._hits(vector, depth, condition, self.facts["probes"]) for vector in vectors[start : start + height]
            ]
            length = max(len(table) for table in found)
            lengths = np.array([len(table) for table in found])
            table = pa.concat_tables(found)
            place = np.full((len(found), length), -1, dtype=np.int64)
            place[np.arange(length) < lengths[:, None]] = np.arange(lengths.sum())
            yield self._ordered(asked[start : start + height], table, place)

    def _ordered(self, asked: np.ndarray, table: pa.Table, place: np.ndarray) -> Found:
        """Return what was found by the exact score, ties by row: the table's own is rounded."""
        part, rows = self._prepared(table), table[_ROW].to_numpy()
        kept = part.embeddings if part.first is None else part.first
        scores = (
            retriever_of(self.space).over(kept).pairs(asked, place) if len(part) else np.zeros(place.shape, np.float32)
        )
        scores = np.where(place < 0, -np.inf, scores).astype(np.float32)
        own = np.where(place < 0, -1, rows[np.maximum(place, 0)] if len(rows) else -1)
        order = np.lexsort((np.where(own < 0, np.iinfo(np.int64).max, own), -scores), axis=1)
        taken = [np.take_along_axis(table, order, 1) for table in (own, scores, place)]
        return Found(taken[0], taken[1], part, taken[2], table["id"].to_numpy())

    def fetch(self, rows: np.ndarray, height: int) -> Iterator[Found]:
        """See `Store`.

        Raises
        ------
        ValueError
            If there is no such row, or it was removed.
        """
        for start in range(0, len(rows), height):
            some = rows[start : start + height]
            known = np.unique(some)
            known = known[known != -1]
            found = self._of_rows(known, ["id", *(_OWN + name for name in self.facts["tables"] if self._width(name))])
            place = np.where(some < 0, -1, np.searchsorted(known, np.maximum(some, 0)))
            yield Found(some, None, self._prepared(found), place, found["id"].to_numpy())

    def _of_rows(self, rows: np.ndarray, columns: list[str]) -> pa.Table:
        """Return columns of rows (n,), ascending and each once, in this order.

        Raises
        ------
        ValueError
            If there is no such row, or it was removed.
        """
        parts = []
        for start in range(0, max(1, len(rows)), _NAMED):
            some = rows[start : start + _NAMED]
            asked = self._table.search().where(_one_of(_ROW, some.tolist()) if len(some) else "false")
            parts.append(asked.select([_ROW, *columns]).limit(max(1, len(some))).to_arrow())
        found = pa.concat_tables(parts)
        found = found.take(pa.array(np.argsort(found[_ROW].to_numpy(), kind="stable")))
        there = found[_ROW].to_numpy()
        if len(there) != len(rows):
            raise ValueError(f"row {np.setdiff1d(rows, there)[0]}: is not in the index, or was removed from it.")
        return found

    def columns(self, rows: np.ndarray, names: Sequence[str] | None = None) -> pa.Table:
        """See `Store`."""
        names = self._named() if names is None else list(names)
        known, place = np.unique(rows, return_inverse=True)
        return self._of_rows(known, names).select(names).take(pa.array(place))

    def _named(self) -> list[str]:
        return [name for name in self._table.schema.names if not name.startswith(_OWN)]

    def rows_of(self, ids: Sequence[Any] | np.ndarray) -> np.ndarray:
        """See `Store`."""
        wanted, kind, rows = np.asarray(ids).tolist(), self._table.schema.field("id").type, []
        for start in range(0, len(wanted), _NAMED):
            try:
                some = pa.array(wanted[start : start + _NAMED], type=kind).to_pylist()
            except (pa.ArrowInvalid, pa.ArrowTypeError):  # of another kind than all of them
                return np.empty(0, dtype=np.int64)
            rows += (
                self._table.search().where(_one_of("id", some)).select([_ROW]).limit(None).to_arrow()[_ROW].to_pylist()
            )
        return np.array(sorted(rows), dtype=np.int64)

    def _condition(self, where: Where) -> str:
        return " AND ".join(f"({_one_of(name, values)})" for name, values in check_where(where, self._named()).items())

    def _prepared(self, table: pa.Table) -> Prepared:
        """Return our columns as arrays."""
        tables = {}
        for name, (kind, width) in self.facts["tables"].items():
            if not width:
                tables[name] = np.empty((len(table), 0), dtype=kind)
                continue
            column = table[_OWN + name].combine_chunks()
            flat = column.flatten() if len(table) else pa.array([], column.type.value_type)
            tables[name] = flat.to_numpy(zero_copy_only=False).astype(kind, copy=False).reshape(len(table), width)
        return Prepared.of_tables(tables, self.same_space)

    def parts(self) -> Iterator[tuple[Prepared, pa.Table]]:
        """See `Store`."""
        for batch in self._table.search().limit(None).to_batches(65_536):
            table = pa.Table.from_batches([batch])
            yield self._prepared(table), table.select(self._named())

    def add(self, prepared: Prepared, items: pa.Table) -> None:
        """See `Store`.

        Raises
        ------
        UserError
            If they can't be written, or another process writes there.
        """
        with telling(self.folder), locked(self.folder, "adding to it"):
            self.facts = read_json(self.folder / _FACTS)
            first = self.next_row
            # First the count: rows of a writer that dies are never given to others.
            self.facts = {**self.facts, "rows": first + len(items)}
            write_json(self.folder / _FACTS, self.facts)
            self._table.checkout_latest()
            self._table.add(_rows(prepared, items, first))
            # What no index knows yet is looked at row by row; to take it in takes minutes where there are millions.
            if self.next_row - self.facts.get("indexed", 0) > max(_LARGE, self.next_row // _SHARE):
                self._reindex(self.facts["parts"])

    def remove(self, rows: np.ndarray) -> None:
        """See `Store`."""
        with telling(self.folder), locked(self.folder, "removing from it"):
            for start in range(0, len(rows), _NAMED):
                self._table.delete(_one_of(_ROW, rows[start : start + _NAMED].tolist()))


def _database(folder: Path) -> Any:
    try:
        import lancedb
    except ImportError as error:
        raise UserError("store='lance' needs lancedb: pip install 'rank-xmodal[lance]'.") from error
    return lancedb.connect(str(folder / "lance"))


def _rows(prepared: Prepared, items: pa.Table, first: int) -> pa.Table:
    """Return candidates as rows of the table, numbered from `first` on."""
    columns: dict[str, Any] = {name: items[name] for name in items.column_names}
    columns[_ROW] = pa.array(np.arange(first, first + len(items)))
    for name, table in prepared.tables().items():
        if table.shape[1]:
            flat = pa.array(np.ascontiguousarray(table).ravel())
            columns[_OWN + name] = pa.FixedSizeListArray.from_arrays(flat, table.shape[1])
    return pa.table(columns)


def _one_of(column: str, values: Sequence[Any]) -> str:
    """Return the condition that a column holds one of some values, as SQL."""
    told = []
    for value in values:
        if isinstance(value, bool):
            told.append("true" if value else "false")
        elif isinstance(value, (int, np.integer)):
            told.append(str(int(value)))
        elif isinstance(value, (float, np.floating)) and np.isfinite(value):
            told.append(repr(float(value)))
        elif isinstance(value, str):
            told.append("'" + value.replace("'", "''") + "'")
        else:
            raise ValueError(f"where {column!r}: {value!r} is no number or string.")
    return f"`{column}` IN ({', '.join(told)})"
