"""Embeddings finished so far, on disk, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rank_xmodal.errors import UserError
from rank_xmodal.files import read_json, write_json

_KEY = 16  # bytes that name an item: a digest of what was encoded
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Partial:
    """The folder .NAME.partial beside an embedding set to be.

    For each side it holds two files that only ever grow: embeddings, `dim` float16 values each, and the key of each.
    A run that is killed leaves at worst half a row at the end, which is cut off on reading. They are written, not
    memory-mapped: a full disk is then an error of ours to report and not a signal that kills the process.

    What was encoded is looked up by its key, so a caption deleted or an image mended costs no other item its work.
    """

    def __init__(self, out: Path, identity: dict[str, Any], dim: int, say: Callable[[str], None]) -> None:
        self.folder = out.with_name(f".{out.name}.partial")
        self.dim = dim
        settings = {"format": 1, "dim": dim, **identity}
        marker = self.folder / "settings.json"
        if self.folder.exists():
            found = _settings(marker)
            if found == settings:
                return
            other = [k for k in settings if (found or {}).get(k) != settings[k]]
            say(f"{self.folder}: partial work of another {', '.join(other)} is thrown away")
            shutil.rmtree(self.folder)
        try:
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise UserError(
                f"{self.folder}: can't be made ({error.strerror}). Choose another place with --out."
            ) from error
        write_json(marker, settings)

    def open(self, side: str) -> Side:
        """Return the finished embeddings of one side, "image" or "text"."""
        return Side(self.folder / f"{side}.f16", self.folder / f"{side}.keys", self.dim)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Side:
    """Embeddings of one side, in the order in which they were finished."""

    def __init__(self, rows: Path, keys: Path, dim: int) -> None:
        self._rows, self._keys, self._dim = rows, keys, dim
        width = 2 * dim
        count = min(_size(rows) // width, _size(keys) // _KEY)
        for path, size in ((rows, count * width), (keys, count * _KEY)):
            with path.open("ab") as handle:
                handle.truncate(size)
        raw = keys.read_bytes()
        self._at = {raw[_KEY * i : _KEY * (i + 1)]: i for i in range(count)}
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: bytes) -> bool:
        return key in self._at

    def append(self, keys: Sequence[bytes], rows: np.ndarray) -> None:
        """Add finished rows, (n, dim) float16.

        Raises
        ------
        UserError
            If the disk is full; what was added before stays.
        """
        try:
            # The rows first: a key on disk promises that its row is there.
            for path, data in ((self._rows, np.ascontiguousarray(rows).tobytes()), (self._keys, b"".join(keys))):
                with path.open("ab") as handle:
                    handle.write(data)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise UserError(
                f"{self._rows.parent}: the disk is full. The work done so far is kept; free some space and run the "
                "same command again."
            ) from error
        for key in keys:
            self._at[key] = self._count
            self._count += 1

    def gather(self, keys: Sequence[bytes], out: Path) -> np.ndarray:
        """Return the rows of these keys, (n, dim) float16, memory-mapped."""
        source = np.memmap(self._rows, dtype=np.float16, mode="r", shape=(self._count, self._dim))
        at = np.array([self._at[key] for key in keys])
        if len(at) == self._count and (at == np.arange(self._count)).all():
            return source
        try:
            with out.open("wb") as handle:
                for start in range(0, len(at), 65_536):
                    handle.write(source[at[start : start + 65_536]].tobytes())
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise UserError(
                f"{out.parent}: the disk is full. Free some space and run the same command again."
            ) from error
        return np.memmap(out, dtype=np.float16, mode="r", shape=(len(at), self._dim))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _settings(marker: Path) -> Any:
    try:
        return read_json(marker)
    except UserError:
        return None
