"""A corpus in a LanceDB table: for one that grows, with filters, and a first stage that looks at a part of it.

The table is searched approximately (IVF over numbers of eight bits) where it is large; how many of its parts are looked
at is chosen so that most of the exact top is found, and what is found is measured. LanceDB: lancedb.github.io.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rank_xmodal.errors import UserError, first_line
from rank_xmodal.files import locked, read_json, telling, write_json
from rank_xmodal.retrieval.first_stage import retriever_of
from rank_xmodal.retrieval.gallery import DEPTH
from rank_xmodal.retrieval.retriever import Space, Unmapped
from rank_xmodal.use.lance_condition import one_of
from rank_xmodal.use.prepared import Prepared
from rank_xmodal.use.store import REMEDY, Found, Where, check_where, ids_of

RECALL = 0.98  # of the exact top that the approximate one should find
_OWN = "rx_"  # before the names of our columns
_ROW = f"{_OWN}row"
_LARGE = 20_000  # candidates from which on a part of them is looked at
_SHARE = 20  # of the candidates, one in so many may be new to the table's index
_NAMED = 500  # values in a condition
_FACTS = "lance.json"
_LANCE = "lance"
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
        self._place, database = folder.stat().st_ino, _database(folder)
        with self._reading():
            self._table: Any = database.open_table(_TABLE)
        if not _fits(self.facts, self._table.schema):
            raise UserError(f"{folder / _FACTS}: not what an index says of itself. {REMEDY}")

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
        with self._reading():
            return asked.to_arrow()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn what LanceDB throws into a UserError that says what to do."""
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            self._check_place()
            raise UserError(
                f"{self.folder / _LANCE}: the table can't be read ({first_line(error)}). {REMEDY}"
            ) from error

    @contextmanager
    def _writing(self, doing: str) -> Iterator[None]:
        """Hold the folder alone, and turn what LanceDB throws into a UserError that says what to do."""
        try:
            with telling(self.folder), locked(self.folder, doing):
                self._check_place()
                yield
        except RuntimeError as error:
            raise UserError(
                f"{self.folder / _LANCE}: the table can't be written ({first_line(error)}). See that you may write "
                "there, then run again."
            ) from error

    def _check_place(self) -> None:
        if self.folder.is_dir() and self.folder.stat().st_ino != self._place:
            raise UserError(f"{self.folder}: another index took its place since it was opened here. Open it again.")

    def _overtaken(self) -> bool:
        """Take in what other processes wrote, and say whether they did."""
        before = self._table.version
        self._table.checkout_latest()
        return bool(self._table.version != before)

    def verify(self) -> None:
        """Read the whole table, which has no checksums.

        Raises
        ------
        UserError
            If it can't be read.
        """
        for _ in self.parts():
            pass

    def _width(self, name: str) -> int:
        return 1 if name == "row" else int(self.facts["tables"][name][1])

    def find(self, asked: np.ndarray, depth: int, where: Where | None, height: int) -> Iterator[Found]:
        """See `Store`; approximately where the table is large."""
        condition = self._condition(where) if where else None
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
            asked = self._table.search().where(one_of(_ROW, some.tolist()) if len(some) else "false")
            with self._reading():
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
        wanted, rows = ids_of(self._table.schema.field("id").type, ids).to_pylist(), []
        for start in range(0, len(wanted), _NAMED):
            asked = self._table.search().where(one_of("id", wanted[start : start + _NAMED]))
            with self._reading():
                rows += asked.select([_ROW]).limit(None).to_arrow()[_ROW].to_pylist()
        return np.array(sorted(rows), dtype=np.int64)

    def _condition(self, where: Where) -> str:
        allowed = check_where(where, pa.schema([self._table.schema.field(name) for name in self._named()]))
        return " AND ".join(f"({one_of(name, values.to_pylist())})" for name, values in allowed.items())

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
        with self._reading():
            found = self._table.search().limit(None).to_batches(65_536)
            tables = (pa.Table.from_batches([batch]) for batch in found)
            # Of no candidates, too, one part says what there would be.
            for table in chain([next(tables, self._table.schema.empty_table())], tables):
                yield self._prepared(table), table.select(self._named())

    def add(self, prepared: Prepared, items: pa.Table) -> None:
        """See `Store`.

        Raises
        ------
        ValueError
            If another process added one of the ids since the index was opened.
        UserError
            If they can't be written, or another process writes there.
        """
        with self._writing("adding to it"):
            if self._overtaken() and len(known := self.rows_of(items["id"].to_pylist())):
                name = self.columns(known[:1], ["id"])["id"][0].as_py()
                raise ValueError(f"ids: another process added {name!r} meanwhile. Leave it out.")
            self.facts = read_json(self.folder / _FACTS)
            first = self.next_row
            # First the count: rows of a writer that dies are never given to others.
            self.facts = {**self.facts, "rows": first + len(items)}
            write_json(self.folder / _FACTS, self.facts)
            self._table.add(_rows(prepared, items, first))
            # What no index knows yet is looked at row by row; to take it in takes minutes where there are millions.
            if self.next_row - self.facts.get("indexed", 0) > max(_LARGE, self.next_row // _SHARE):
                self._reindex(self.facts["parts"])

    def remove(self, rows: np.ndarray) -> None:
        """See `Store`.

        Raises
        ------
        ValueError
            If another process removed one of them since the index was opened.
        UserError
            As `add`.
        """
        with self._writing("removing from it"):
            if self._overtaken():
                self._of_rows(rows, [])
            for start in range(0, len(rows), _NAMED):
                self._table.delete(one_of(_ROW, rows[start : start + _NAMED].tolist()))


def _database(folder: Path) -> Any:
    try:
        import lancedb
    except ImportError as error:
        raise UserError("store='lance' needs lancedb: pip install 'rank-xmodal[lance]'.") from error
    return lancedb.connect(str(folder / _LANCE))


def _rows(prepared: Prepared, items: pa.Table, first: int) -> pa.Table:
    """Return candidates as rows of the table, numbered from `first` on."""
    columns: dict[str, Any] = {name: items[name] for name in items.column_names}
    columns[_ROW] = pa.array(np.arange(first, first + len(items)))
    for name, table in prepared.tables().items():
        if table.shape[1]:
            flat = pa.array(np.ascontiguousarray(table).ravel())
            columns[_OWN + name] = pa.FixedSizeListArray.from_arrays(flat, table.shape[1])
    return pa.table(columns)


def _fits(told: Any, schema: pa.Schema) -> bool:
    """Say whether what lance.json tells is so of a table."""
    try:
        for name, (kind, width) in told["tables"].items():
            found = [kind, 0]  # a table without columns has none there
            if _OWN + name in schema.names:
                column = schema.field(_OWN + name).type
                found = [np.dtype(column.value_type.to_pandas_dtype()).name, column.list_size]
            if [kind, width] != found:
                return False
        counts = [told["rows"], told["probes"] or 1]
        return told["tables"].keys() >= {"embeddings", "neighbours"} and all(type(n) is int and n >= 0 for n in counts)
    except (KeyError, TypeError, AttributeError, ValueError):
        return False
