"""Checksums."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from rank_xmodal.files.reading import unreadable


def sha256(*parts: bytes | memoryview | np.ndarray) -> str:
    """Return the hexadecimal SHA-256 of the parts, one after the other."""
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
