"""Embeddings finished so far, on disk, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from rank_xmodal.errors import UserError
from rank_xmodal.files import locked, read_json, remove, telling, write_json

_KEY = 16  # bytes that name an item, a digest of what was encoded,
_SUM = 4  # and the CRC-32 of its row behind them
_BLOCK = 65_536  # rows read at a time
_MARKER = "settings.json"
_OURS = {_MARKER, *(f"{side}.{kind}" for side in ("image", "text") for kind in ("f16", "keys", "ordered"))}


def folder_of(out: Path) -> Path:
    """Return where the work on an embedding set to be is kept."""
    out = Path(os.path.realpath(out))
    return out.with_name(f".{out.name}.partial")


class Partial:
    """The folder .NAME.partial beside an embedding set to be.

    For each side it holds two files that only ever grow: embeddings, `dim` float16 values each, and the key of each
    with the row's checksum. A run that is killed leaves at worst half a row at the end, which is cut off on reading; a
    row that doesn't fit its checksum, after a loss of power, counts as never encoded. They are written, not
    memory-mapped: a full disk is then an error of ours to report and not a signal that kills the process.

    What was encoded is looked up by its key, so a caption deleted or an image mended costs no other item its work.
    """

    def __init__(self, out: Path, identity: dict[str, Any], dim: int, say: Callable[[str], None]) -> None:
        self.folder, self.dim, self.say = folder_of(out), dim, say
        self.settings = {"format": 2, "dim": dim, **identity}
        self._held = ExitStack()

    def __enter__(self) -> Partial:
        """Hold the folder for this process; throw away what was done with other settings.

        Raises
        ------
        UserError
            If it can't be written, or another process is at it.
        """
        with telling(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._held.enter_context(locked(self.folder, "embedding into the same --out"))
        try:
            self._begin()
        except BaseException:
            self._held.close()
            raise
        return self

    def _begin(self) -> None:
        found = _settings(self.folder / _MARKER)
        if found == self.settings:
            return
        others = [path.name for path in self.folder.iterdir() if path.name not in _OURS and path.name[0] != "."]
        if others:
            raise UserError(f"{self.folder}: holds {others[0]!r}, which is no work of embed. Move the folder away.")
        if found is not None:
            other = [key for key in self.settings if found.get(key) != self.settings[key]]
            self.say(f"{self.folder}: partial work of another {', '.join(other)} is thrown away")
        with telling(self.folder):
            for path in self.folder.iterdir():
                path.unlink()
        write_json(self.folder / _MARKER, self.settings)

    def discard(self) -> None:
        """Remove what a run of these settings left that was killed at its very end; another's work stays."""
        with suppress(UserError, OSError):
            if _settings(self.folder / _MARKER) == self.settings:
                with locked(self.folder, "embedding"):
                    self.remove()

    def __exit__(self, *_: object) -> None:
        """Let others have it."""
        self._held.close()

    def open(self, side: str) -> Side:
        """Return the finished embeddings of one side, "image" or "text"."""
        return Side(self.folder / f"{side}.f16", self.folder / f"{side}.keys", self.dim)

    def remove(self) -> None:
        """Delete the folder."""
        with suppress(OSError):
            remove(self.folder)


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


def _settings(marker: Path) -> dict[str, Any] | None:
    try:
        found = read_json(marker)
    except UserError:
        return None
    return found if isinstance(found, dict) else None
