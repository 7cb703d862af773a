"""Candidate lists: for every query the rows of its candidates, their labels and first-stage cosines."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rank_xmodal.data.embedding_set import EmbeddingSet, check_direction
from rank_xmodal.errors import UserError
from rank_xmodal.files import opened_parquet, replacing, sha256

FORMAT = 1
PADDING = -1
_SHARD = 800_000  # places in lists that are written at a time, and read: memory has the whole once, as arrays
_LISTS = 16_384  # that are read at a time of a file in one piece, as earlier versions wrote
_KEY = b"rank_xmodal"
_COLUMNS = {"query": np.int32, "candidates": np.int32, "labels": np.int8, "cosine": np.float32}


@dataclass(frozen=True)
class CandidateLists:
    """Lists of one direction and split, rows referring to an embedding set.

    Attributes
    ----------
    query : ndarray (Q,), int32
        Row of the query.
    candidates : ndarray (Q, L), int32
        Rows of the candidates; -1 is padding.
    labels : ndarray (Q, L), int8
        Grade of relevance, 0 for none; -1 is padding.
    cosine : ndarray (Q, L), float32
        First-stage score; 0 at padding.
    info : dict
        direction, split, fingerprint of the embedding set, the miner's settings and statistics.
    """

    query: np.ndarray
    candidates: np.ndarray
    labels: np.ndarray
    cosine: np.ndarray
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.query)

    @property
    def length(self) -> int:
        """Number of places in a list, L."""
        return int(self.candidates.shape[1])

    @property
    def direction(self) -> str:
        """The direction, "t2i" or "i2t"."""
        return str(self.info["direction"])

    def write(self, path: Path) -> None:
        """Write one Parquet file, whole or not at all; `info` becomes its metadata."""
        numbers = {name: pa.from_numpy_dtype(dtype) for name, dtype in _COLUMNS.items()}
        kinds = {name: kind if name == "query" else pa.list_(kind) for name, kind in numbers.items()}
        schema = pa.schema(kinds.items(), {_KEY: json.dumps({"format": FORMAT, **self.info}).encode()})
        with (
            replacing(Path(path)) as part,
            pq.ParquetWriter(
                part, schema, compression="zstd", use_dictionary=False, write_page_checksum=True
            ) as writer,
        ):
            step = max(1, _SHARD // max(1, self.length))
            for start in range(0, len(self), step):
                columns = {name: getattr(self, name)[start : start + step].astype(_COLUMNS[name]) for name in kinds}
                arrays = [
                    pa.array(rows) if rows.ndim == 1
                    else pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), self.length).cast(kinds[name])
                    for name, rows in columns.items()
                ]  # fmt: skip
                writer.write_table(pa.table(arrays, schema=schema))

    @classmethod
    def read(cls, path: Path | str, data: EmbeddingSet | None = None) -> CandidateLists:
        """Read a file that `write` made and, where `data` is given, check that it belongs to that embedding set.

        Raises
        ------
        UserError
            If the file is missing or broken, of another format, made from another embedding set, or ragged.
        """
        path = Path(path)
        with opened_parquet(path) as file:
            schema = file.schema_arrow
            try:
                info = json.loads((schema.metadata or {})[_KEY])
            except (KeyError, ValueError, RecursionError) as error:
                raise UserError(f"{path}: carries no rank_xmodal metadata. Mine it with `rank-xmodal mine`.") from error
            if not isinstance(info, dict) or info.pop("format", None) != FORMAT:
                raise UserError(f"{path}: of another format than {FORMAT}. Mine it again with `rank-xmodal mine`.")
            wrong = [name for name in _COLUMNS if schema.names.count(name) != 1]
            if wrong:
                what = "stands twice" if wrong[0] in schema.names else "is missing"
                raise UserError(f"{path}: the column {wrong[0]!r} {what}. Mine it again with `rank-xmodal mine`.")
            if data is not None and info.get("fingerprint") != data.fingerprint:
                raise UserError(
                    f"{path}: its lists were mined from the embedding set {str(info.get('fingerprint'))[:12]}, but "
                    f"{data.root or data.name} is {data.fingerprint[:12]}. Mine it again with `rank-xmodal mine`."
                )
            arrays = _arrays(file, path)
        if not len(arrays["query"]):
            raise UserError(f"{path}: holds no lists. Mine it again with other settings.")
        lists = cls(**arrays, info=info)
        lists.check(str(path), data)
        return lists

    @property
    def digest(self) -> str:
        """SHA-256 over queries, candidates, labels and cosines: tells them from other lists."""
        return sha256(self.query, self.candidates, self.labels, self.cosine)

    def check(self, where: str, data: EmbeddingSet | None = None) -> None:
        """Check shapes, padding and rows.

        Raises
        ------
        UserError
            If the arrays don't fit together or a row lies outside the embedding set.
        """
        if not self.candidates.shape == self.labels.shape == self.cosine.shape or len(self.query) != len(self.labels):
            raise UserError(
                f"{where}: query {self.query.shape}, candidates {self.candidates.shape}, labels {self.labels.shape} "
                f"and cosine {self.cosine.shape} don't fit together."
            )
        wrong = np.flatnonzero(((self.candidates < 0) != (self.labels < 0)).any(axis=1))
        if len(wrong):
            raise UserError(f"{where}: row {wrong[0]} pads candidates and labels at different places.")
        if not np.isfinite(self.cosine).all():
            raise UserError(f"{where}: row {np.flatnonzero(~np.isfinite(self.cosine).all(1))[0]} has a NaN cosine.")
        if data is None:
            return
        direction = check_direction(self.direction)
        for name, rows, limit in (
            ("query", self.query, len(data.queries(direction))),
            ("candidates", self.candidates, len(data.candidates(direction))),
        ):
            if rows.size and (int(rows.max()) >= limit or int(rows.min()) < PADDING):
                raise UserError(
                    f"{where}: {name} holds row {int(rows.max())}, but there are only {limit}. Mine it again."
                )


def _arrays(file: pq.ParquetFile, path: Path) -> dict[str, np.ndarray]:
    """Read all columns, shard after shard: numbers (Q,), or lists that are equally long (Q, L)."""
    count, done = file.metadata.num_rows, 0
    arrays: dict[str, np.ndarray] = {name: np.empty(0, dtype=dtype) for name, dtype in _COLUMNS.items()}
    shards = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
    step = max(1, min(_LISTS, max(shards, default=1)))
    for batch in file.iter_batches(step, use_threads=False, columns=list(_COLUMNS)):
        for name, dtype in _COLUMNS.items():
            try:
                values, lengths = _values(batch.column(name), name)
            except (pa.ArrowException, ValueError, TypeError, AttributeError) as error:
                why = " ".join(str(error).split())[:300]
                raise UserError(f"{path}: a column holds something unexpected ({why}). Mine it again.") from error
            shape = () if name == "query" else (int(lengths[0]),)
            if not done:
                arrays[name] = np.empty((count, *shape), dtype=dtype)
            length = arrays[name].shape[1] if shape else 1
            if (lengths != length).any():
                row = int(np.flatnonzero(lengths != length)[0])
                raise UserError(
                    f"{path}: row {done + row} has {lengths[row]} {name}, row 0 has {length}. Mine it again."
                )
            arrays[name][done : done + len(batch)] = values.reshape(len(batch), *shape)
        done += len(batch)
    if done != count:
        raise UserError(f"{path}: holds {done:,} of {count:,} lists. Mine it again.")
    return arrays


def _values(column: pa.Array, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of a column's rows, one after the other, and how many each has."""
    column.validate(full=True)
    gaps, lengths = column.null_count, np.ones(len(column), dtype=np.int64)
    if name != "query":
        lengths = column.value_lengths().to_numpy(zero_copy_only=False)
        column = column.flatten()
    if gaps or column.null_count or not pa.types.is_primitive(column.type):
        raise ValueError(f"{name} has {gaps + column.null_count} gaps, of type {column.type}")
    return column.cast(pa.from_numpy_dtype(_COLUMNS[name])).to_numpy(zero_copy_only=False), lengths
