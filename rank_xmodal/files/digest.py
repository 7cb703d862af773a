"""Checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from rank_xmodal.files.reading import unreadable


def sha256(*parts: bytes | memoryview | np.ndarray) -> str:
    """Return the hexadecimal SHA-256 of the parts, one after the other."""
    return sha256_of(parts)


def sha256_of(parts: Iterable[bytes | memoryview | np.ndarray]) -> str:
    """Return the same of parts that are made one after the other, and not held together."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else part)
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes.

    Raises
    ------
    UserError
        If it can't be read.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise unreadable(path, error) from error
    return digest.hexdigest()


_whole: set[tuple[str, ...]] = set()


def check_once(files: Iterable[Path], check: Callable[[], None]) -> None:
    """Call a check that raises where files are damaged, once in a process for files of the same time and size."""
    key = tuple(f"{path.resolve()} {f.st_ino} {f.st_size} {f.st_mtime_ns}" for path in files for f in [path.stat()])
    if key not in _whole:
        check()
        _whole.add(key)
