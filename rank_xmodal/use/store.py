"""Where a corpus lies, and how its candidates are found: exactly in memory or mapped files, or in a database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rank_xmodal.use.prepared import Prepared

Where = Mapping[str, Any]
"""A filter: columns, and the value or list of values that each must have; None stands for a value that is missing."""
REMEDY = "Bring the folder again from a copy, or make the index again."


@dataclass(frozen=True)
class Found:
    """Candidates that a first stage found for some queries.

    Attributes
    ----------
    rows : ndarray (Q, L), int64
        -1 where there is none.
    scores : ndarray (Q, L), float32, or None
        The first stage's, where it told them.
    part : Prepared of U candidates
        Those that occur.
    place : ndarray (Q, L), int64
        Which of the U stands where; -1 where there is none.
    ids : ndarray (U,) or None
        What they are called, where the store read that along.
    """

    rows: np.ndarray
    scores: np.ndarray | None
    part: Prepared
    place: np.ndarray
    ids: np.ndarray | None = None


class Store(Protocol):
    """The candidates of an index: rows that keep their numbers for good, with an id and other columns each."""

    def __len__(self) -> int:
        """Return how many candidates there are; removed ones don't count."""
        ...

    @property
    def next_row(self) -> int:
        """Which row the next candidate gets."""
        ...

    def find(self, asked: np.ndarray, depth: int, where: Where | None, height: int) -> Iterator[Found]:
        """Yield the top `depth` of queries (Q, d), `height` queries at a time; fewer where fewer pass the filter."""
        ...

    def fetch(self, rows: np.ndarray, height: int) -> Iterator[Found]:
        """Yield candidates (Q, L) by their rows, -1 for none, `height` queries at a time, without scores."""
        ...

    def columns(self, rows: np.ndarray, names: Sequence[str] | None = None) -> pa.Table:
        """Return columns of rows (n,), by default all; "id" is one of them."""
        ...

    def rows_of(self, ids: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Return the rows of all candidates that are called so, ascending."""
        ...

    def parts(self) -> Iterator[tuple[Prepared, pa.Table]]:
        """Yield all candidates and their columns but for removed ones, some at a time."""
        ...

    def add(self, prepared: Prepared, items: pa.Table) -> None:
        """Put candidates behind the last row."""
        ...

    def remove(self, rows: np.ndarray) -> None:
        """Take candidates out."""
        ...


def gathered(prepared: Prepared, rows: np.ndarray, scores: np.ndarray | None, height: int) -> Iterator[Found]:
    """Yield rows (Q, L) of prepared candidates, `height` queries at a time."""
    for start in range(0, len(rows), height):
        part = rows[start : start + height]
        known, place = np.unique(part, return_inverse=True)
        place = place.reshape(part.shape).astype(np.int64)
        if len(known) and known[0] < 0:
            known, place = known[1:], place - 1
        yield Found(part, None if scores is None else scores[start : start + height], prepared.take(known), place)


def joined(parts: list[Found]) -> Found:
    """Return parts as one."""
    if len(parts) == 1:
        return parts[0]
    whole_part, offset, places = parts[0].part, len(parts[0].part), [parts[0].place]
    for found in parts[1:]:
        places.append(np.where(found.place < 0, -1, found.place + offset))
        whole_part, offset = whole_part.joined(found.part), offset + len(found.part)
    scores = [found.scores for found in parts if found.scores is not None]
    ids = [found.ids for found in parts if found.ids is not None]
    rows = np.concatenate([found.rows for found in parts])
    return Found(
        rows,
        np.concatenate(scores) if scores else None,
        whole_part,
        np.concatenate(places),
        np.concatenate(ids) if ids else None,
    )


def item_table(ids: Sequence[Any] | np.ndarray, metadata: Mapping[str, Sequence[Any]] | None) -> pa.Table:
    """Return the columns of candidates, "id" first.

    Raises
    ------
    ValueError
        If a column is called "id", isn't as long as the ids, or holds what Arrow has no type for, or an id is missing.
    """
    columns: dict[str, Any] = {"id": ids}
    for name, values in (metadata or {}).items():
        if not isinstance(name, str) or name == "id" or name.startswith(("_", "rx_")) or not name.isidentifier():
            raise ValueError(
                f"metadata column {name!r}: must be a word, not id, and not begin with _ or rx_. Rename it."
            )
        if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
            raise ValueError(f"metadata column {name!r}: {repr(values)[:50]} is no list of {len(ids)} values.")
        if len(values) != len(ids):
            raise ValueError(f"metadata column {name!r}: {len(values)} values for {len(ids)} candidates.")
        columns[name] = values
    arrays = {}
    for name, values in columns.items():
        try:
            arrays[name] = pa.array(values.tolist() if isinstance(values, np.ndarray) else list(values))
        except (pa.ArrowException, OverflowError) as error:  # the latter of an integer beyond 64 bits
            said = " ".join(str(error).split())[:200]
            raise ValueError(f"{name}: values must be numbers, or strings, all of one kind ({said}).") from error
        if pa.types.is_nested(arrays[name].type):
            raise ValueError(f"{name}: values must be numbers, or strings, all of one kind; found {arrays[name].type}.")
    missing = arrays["id"].is_null(nan_is_null=True).to_pylist()
    if any(missing):
        place = missing.index(True)
        raise ValueError(f"ids: number {place} is missing. Give each candidate a name.")
    return pa.table(arrays)


def values_of(kind: pa.DataType, values: Sequence[Any]) -> pa.Array:
    """Return values as a column of some kind holds them.

    Raises
    ------
    ValueError
        If one is of another kind.
    """
    try:
        found = pa.array(values, type=kind)
        same = not pa.types.is_integer(kind) or found.to_pylist() == list(values)  # Arrow makes 1 of 1.5
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise ValueError(f"{values!r} are no values of a column of {kind}.") from error
    if not same:
        raise ValueError(f"{values!r} are no values of a column of {kind}.")
    return found


def ids_of(kind: pa.DataType, ids: Sequence[Any] | np.ndarray) -> pa.Array:
    """Return those of some ids that a column of some kind can hold."""
    wanted = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    try:
        return values_of(kind, wanted)
    except ValueError:
        kept = []
        for name in wanted:
            with suppress(ValueError):
                kept += values_of(kind, [name]).to_pylist()
        return pa.array(kept, type=kind)


def check_where(where: Where, columns: pa.Schema) -> dict[str, pa.Array]:
    """Return a filter's allowed values by column, as the columns hold them.

    Raises
    ------
    ValueError
        If it is no mapping, there is no such column, no value is allowed, or one is of another kind than its column.
    """
    if not isinstance(where, Mapping):
        raise ValueError(f"where={where!r}: give columns and the values that they may have, as {{'year': 1}}.")
    found = {}
    for name, value in where.items():
        if name not in columns.names:
            raise ValueError(f"where={name!r}: the index has no such column; it has {', '.join(columns.names)}.")
        several = value.ravel().tolist() if isinstance(value, np.ndarray) else value
        values = list(several) if isinstance(several, (list, tuple, set, frozenset)) else [several]
        if not values:
            raise ValueError(f"where {name!r}: allows no value at all. Name one, or leave the filter out.")
        try:
            found[name] = values_of(columns.field(name).type, values)
        except ValueError as error:
            raise ValueError(f"where {name!r}: {error}") from error
    return found


def passing(items: pa.Table, where: Where) -> np.ndarray:
    """Return which rows of a table pass a filter, (n,) bool.

    Raises
    ------
    ValueError
        As `check_where`.
    """
    kept = np.ones(len(items), dtype=bool)
    for name, allowed in check_where(where, items.schema).items():
        column = items[name]
        if pa.types.is_floating(allowed.type):  # Arrow tells 0.0 from -0.0
            column, allowed = pc.add(column, 0.0), pc.add(allowed, 0.0)
        kept &= pc.is_in(column, value_set=allowed).to_numpy()
    return kept
