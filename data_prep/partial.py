"""Embeddings finished so far, on disk, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.kept import KeptWork
from rank_xmodal.errors import UserError
from rank_xmodal.files import telling

_KEY = 16  # bytes that name an item, a digest of what was encoded,
_SUM = 4  # and the CRC-32 of its row behind them
_BLOCK = 65_536  # rows read at a time
_OURS = re.compile(r"(image|text)\.(f16|keys|ordered)")


class Partial(KeptWork):
    """The folder .NAME.partial beside an embedding set to be.

    For each side it holds two files that only ever grow: embeddings, `dim` float16 values each, and the key of each
    with the row's checksum. A run that is killed leaves at worst half a row at the end, which is cut off on reading; a
    row that doesn't fit its checksum, after a loss of power, counts as never encoded. They are written, not
    memory-mapped: a full disk is then an error of ours to report and not a signal that kills the process.

    What was encoded is looked up by its key, so a caption deleted or an image mended costs no other item its work.
    """

    def __init__(self, out: Path, identity: dict[str, Any], dim: int, say: Callable[[str], None]) -> None:
        super().__init__(out, "partial", {"format": 2, "dim": dim, **identity}, _OURS, say)
        self.dim = dim

    def open(self, side: str) -> Side:
        """Return the finished embeddings of one side, "image" or "text"."""
        return Side(self.folder / f"{side}.f16", self.folder / f"{side}.keys", self.dim)


class Side:
    """Embeddings of one side, in the order in which they were finished."""

    def __init__(self, rows: Path, keys: Path, dim: int) -> None:
        self._rows, self._keys, self._dim = rows, keys, dim
        width, record = 2 * dim, _KEY + _SUM
        count = min(_size(rows) // width, _size(keys) // record)
        with telling(rows.parent):
            for path, size in ((rows, count * width), (keys, count * record)):
                with path.open("ab") as handle:
                    handle.truncate(size)
        raw = keys.read_bytes()
        self._at: dict[bytes, int] = {}
        with rows.open("rb") as handle:
            for i in range(count):
                key, known = raw[record * i : record * i + _KEY], raw[record * i + _KEY : record * (i + 1)]
                if _sum(handle.read(width)) == known:
                    self._at[key] = i
        self._count = count

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, key: bytes) -> bool:
        return key in self._at

    def append(self, keys: Sequence[bytes], rows: np.ndarray) -> None:
        """Add finished rows, (n, dim) float16.

        Raises
        ------
        UserError
            If the disk is full; what was added before stays.
        """
        whole = [np.ascontiguousarray(row, dtype=np.float16).tobytes() for row in rows]
        records = [key + _sum(row) for key, row in zip(keys, whole, strict=True)]
        # The rows first: a key on disk promises that its row is there.
        try:
            with telling(self._rows.parent):
                for path, data in ((self._rows, whole), (self._keys, records)):
                    with path.open("ab") as handle:
                        handle.write(b"".join(data))
        except UserError as error:
            raise UserError(f"{error} What was encoded before is kept: run the same command again.") from error
        for key in keys:
            self._at[key] = self._count
            self._count += 1

    def gather(self, keys: Sequence[bytes], out: Path) -> np.ndarray:
        """Return the rows of these keys, (n, dim) float16, memory-mapped.

        Raises
        ------
        UserError
            If the disk is full.
        """
        if not keys:  # images without captions; an empty file can't be mapped
            return np.empty((0, self._dim), dtype=np.float16)
        source = np.memmap(self._rows, dtype=np.float16, mode="r", shape=(self._count, self._dim))
        at = np.array([self._at[key] for key in keys])
        if len(at) == self._count and (at == np.arange(self._count)).all():
            return source
        with telling(out.parent), out.open("wb") as handle:
            for start in range(0, len(at), _BLOCK):
                handle.write(source[at[start : start + _BLOCK]].tobytes())
        return np.memmap(out, dtype=np.float16, mode="r", shape=(len(at), self._dim))


def _sum(row: bytes) -> bytes:
    return zlib.crc32(row).to_bytes(_SUM, "little")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
