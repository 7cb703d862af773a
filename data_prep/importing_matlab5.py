"""Codes of types in files of MATLAB 5 to 7.2: scipy takes any number for one, and crashes with the whole process."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_BLOCK = 1 << 16
_MATRIX, _COMPRESSED = 14, 15
_TYPES = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 16, 17, 18}  # numbers and characters; others have no values of their own
_SPARSE, _CHAR, _LAST = 5, 4, 15  # classes of a matrix: those from characters to 64-bit numbers hold plain values
_COMPLEX = 1 << 11
Read = Callable[[int], bytes]


def check_types(path: Path) -> None:
    """Check the code of every value in a file; one of MATLAB 4 has none, and passes.

    Raises
    ------
    ValueError
        If one is unknown, or the file ends before its values do.
    """
    with path.open("rb") as handle:
        head = handle.read(128)
        if len(head) < 128 or 0 in head[:4]:  # MATLAB 4, or too short for scipy, too
            return
        order = "<" if head[126:128] == b"IM" else ">"
        while tag := handle.read(8):
            kind, size = struct.unpack(f"{order}II", _whole(tag, 8))
            after = handle.tell() + size
            if kind == _COMPRESSED:
                read = _inflated(handle, size)
                kind, _ = struct.unpack(f"{order}II", _whole(read(8), 8))
            else:
                read = handle.read
            if kind == _MATRIX:
                _check_matrix(read, order)
            handle.seek(after)


def _check_matrix(read: Read, order: str) -> None:
    flags = struct.unpack(f"{order}IIII", _whole(read(16), 16))[2]
    kind = flags & 0xFF
    if not _CHAR <= kind <= _LAST:
        return
    for _ in ("dimensions", "name"):
        _skip_value(read, order)
    for _ in range((3 if kind == _SPARSE else 1) + bool(flags & _COMPLEX)):
        code = _skip_value(read, order)
        if code not in _TYPES:
            raise ValueError(f"unknown type {code} of a value")


def _skip_value(read: Read, order: str) -> int:
    """Pass over a value, and return the code of its type."""
    first, size = struct.unpack(f"{order}II", _whole(read(8), 8))
    if first >> 16:  # at most four bytes, which lie in the tag itself
        return int(first & 0xFFFF)
    size += -size % 8
    while size:
        got = len(read(min(size, _BLOCK)))
        if not got:
            raise ValueError("ends before its values do")
        size -= got
    return int(first)


def _inflated(handle: BinaryIO, size: int) -> Read:
    """Return what reads the content of the `size` compressed bytes that come next."""
    inflater, left, buffer = zlib.decompressobj(), size, bytearray()

    def read(count: int) -> bytes:
        nonlocal left
        while len(buffer) < count and not inflater.eof:
            packed = inflater.unconsumed_tail
            if not packed:
                packed = handle.read(min(left, _BLOCK))
                left -= len(packed)
            more = inflater.decompress(packed, _BLOCK)  # of nothing, too: it may still hold what it has taken in
            if not packed and not more:
                break
            buffer.extend(more)
        found = bytes(buffer[:count])
        del buffer[:count]
        return found

    return read


def _whole(raw: bytes, size: int) -> bytes:
    if len(raw) < size:
        raise ValueError("ends before its values do")
    return raw
