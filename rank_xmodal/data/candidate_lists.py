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
from rank_xmodal.files import read_parquet, replacing, sha256

FORMAT = 1
PADDING = -1
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
        length = self.length
        table = pa.table(
            {
                "query": pa.array(self.query.astype(np.int32)),
                **{
                    name: pa.FixedSizeListArray.from_arrays(
                        pa.array(getattr(self, name).astype(_COLUMNS[name]).reshape(-1)), length
                    ).cast(pa.list_(pa.from_numpy_dtype(_COLUMNS[name])))
                    for name in ("candidates", "labels", "cosine")
                },
            }
        )
        metadata = {_KEY: json.dumps({"format": FORMAT, **self.info}).encode()}
        with replacing(Path(path)) as part:
            pq.write_table(table.replace_schema_metadata(metadata), part, compression="zstd", write_page_checksum=True)

    @classmethod
    def read(cls, path: Path | str, data: EmbeddingSet | None = None) -> CandidateLists:
        """Read a file that `write` made and, where `data` is given, check that it belongs to that embedding set.

        Raises
        ------
        UserError
            If the file is missing or broken, of another format, made from another embedding set, or ragged.
        """
        path = Path(path)
        table = read_parquet(path)
        try:
            info = json.loads((table.schema.metadata or {})[_KEY])
        except (KeyError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: carries no rank_xmodal metadata. Mine it with `rank-xmodal mine`.") from error
        if not isinstance(info, dict) or info.pop("format", None) != FORMAT:
            raise UserError(f"{path}: of another format than {FORMAT}. Mine it again with `rank-xmodal mine`.")
        missing = [name for name in _COLUMNS if name not in table.column_names]
        if missing:
            raise UserError(f"{path}: the column {missing[0]!r} is missing. Mine it again with `rank-xmodal mine`.")
        if data is not None and info.get("fingerprint") != data.fingerprint:
            raise UserError(
                f"{path}: its lists were mined from the embedding set {str(info.get('fingerprint'))[:12]}, but "
                f"{data.root or data.name} is {data.fingerprint[:12]}. Mine it again with `rank-xmodal mine`."
            )
        try:
            arrays = {name: _array(table[name], name, path) for name in _COLUMNS}
        except (pa.ArrowException, ValueError, TypeError, AttributeError) as error:
            why = " ".join(str(error).split())[:300]
            raise UserError(f"{path}: a column holds something unexpected ({why}). Mine it again.") from error
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


def _array(column: pa.ChunkedArray, name: str, path: Path) -> np.ndarray:
    """Return a column of numbers (Q,), or of lists that are equally long (Q, L)."""
    column.validate(full=True)
    column, numbers = column.combine_chunks(), column.type
    if name != "query":
        lengths = column.value_lengths().to_numpy(zero_copy_only=False)
        if len(lengths) and (lengths != lengths[0]).any():
            row = int(np.flatnonzero(lengths != lengths[0])[0])
            raise UserError(f"{path}: row {row} has {lengths[row]} {name}, row 0 has {lengths[0]}. Mine it again.")
        count, column, numbers = len(column), column.flatten(), numbers.value_type
    values = column.cast(pa.from_numpy_dtype(_COLUMNS[name])).to_numpy(zero_copy_only=False)
    if column.null_count or not pa.types.is_primitive(numbers):
        raise ValueError(f"{name} has {column.null_count} gaps, of type {numbers}")
    values = np.array(values)  # Arrow's own memory may not be written to, and torch takes no such
    return values if name == "query" else values.reshape(count, -1)
