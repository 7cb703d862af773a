"""Ways to spoil a file."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

Change = Callable[[bytes, random.Random], bytes]
_LARGEST = 256


def _span(raw: bytes, luck: random.Random) -> tuple[int, int]:
    start = luck.randrange(len(raw))
    return start, min(len(raw), start + luck.randint(1, _LARGEST))


def bit(raw: bytes, luck: random.Random) -> bytes:
    """Turn over one bit."""
    at = luck.randrange(len(raw))
    return raw[:at] + bytes([raw[at] ^ 1 << luck.randrange(8)]) + raw[at + 1 :]


def byte(raw: bytes, luck: random.Random) -> bytes:
    """Replace one byte by another."""
    at = luck.randrange(len(raw))
    return raw[:at] + bytes([(raw[at] + luck.randint(1, 255)) % 256]) + raw[at + 1 :]


def some_bytes(raw: bytes, luck: random.Random) -> bytes:
    """Replace a few bytes anywhere."""
    for _ in range(luck.randint(2, 12)):
        raw = byte(raw, luck)
    return raw


def head(raw: bytes, luck: random.Random) -> bytes:
    """Replace a byte among the first 128, where formats say what follows."""
    at = luck.randrange(min(len(raw), 128))
    return raw[:at] + bytes([luck.randrange(256)]) + raw[at + 1 :]


def tail(raw: bytes, luck: random.Random) -> bytes:
    """Replace a byte among the last 128: Parquet's footer."""
    at = len(raw) - 1 - luck.randrange(min(len(raw), 128))
    return raw[:at] + bytes([luck.randrange(256)]) + raw[at + 1 :]


def cut(raw: bytes, luck: random.Random) -> bytes:
    """Leave the beginning only."""
    return raw[: luck.randrange(len(raw))]


def cut_a_little(raw: bytes, luck: random.Random) -> bytes:
    """Leave out the last few bytes."""
    return raw[: -luck.randint(1, min(16, len(raw)))]


def zeros(raw: bytes, luck: random.Random) -> bytes:
    """Zero a block, as a disk that lost it."""
    start, end = _span(raw, luck)
    return raw[:start] + bytes(end - start) + raw[end:]


def doubled(raw: bytes, luck: random.Random) -> bytes:
    """Write a block twice."""
    start, end = _span(raw, luck)
    return raw[:end] + raw[start:]


def dropped(raw: bytes, luck: random.Random) -> bytes:
    """Leave out a block."""
    start, end = _span(raw, luck)
    return raw[:start] + raw[end:]


def swapped(raw: bytes, luck: random.Random) -> bytes:
    """Exchange two blocks of a size."""
    size = luck.randint(1, max(1, min(_LARGEST, len(raw) // 2)))
    one, other = sorted(luck.randrange(max(1, len(raw) - size)) for _ in range(2))
    if other < one + size:
        return byte(raw, luck)
    return raw[:one] + raw[other : other + size] + raw[one + size : other] + raw[one : one + size] + raw[other + size :]


def inserted(raw: bytes, luck: random.Random) -> bytes:
    """Put rubbish somewhere."""
    at = luck.randrange(len(raw) + 1)
    return raw[:at] + luck.randbytes(luck.randint(1, 32)) + raw[at:]


def appended(raw: bytes, luck: random.Random) -> bytes:
    """Put rubbish behind the end."""
    return raw + luck.randbytes(luck.randint(1, 64))


def empty(raw: bytes, luck: random.Random) -> bytes:
    """Leave nothing."""
    return b""


def rubbish(raw: bytes, luck: random.Random) -> bytes:
    """Write random bytes."""
    return luck.randbytes(max(1, len(raw)))


def blank(raw: bytes, luck: random.Random) -> bytes:
    """Write zeros throughout, as a file system may after a power cut."""
    return bytes(len(raw))


def twice(raw: bytes, luck: random.Random) -> bytes:
    """Write the file twice."""
    return raw + raw


CHANGES: dict[str, Change] = {
    one.__name__: one
    for one in (bit, byte, some_bytes, head, tail, cut, cut_a_little, zeros, doubled, dropped, swapped, inserted)
}
"""What can be done again and again with another outcome."""
ONCE: dict[str, Change] = {one.__name__: one for one in (appended, empty, rubbish, blank, twice)}
"""What is worth one attempt."""
PLACES = ("missing", "folder", "dangling", "loop", "other")
"""What else may stand at the path: nothing, a folder, a link to nothing or to itself, another file's content."""


def spoil(path: Path, kind: str, luck: random.Random) -> None:
    """Spoil a file in one of the ways; `other` takes the content of a neighbour of another kind."""
    if kind in CHANGES or kind in ONCE:
        raw = path.read_bytes()
        path.write_bytes({**CHANGES, **ONCE}[kind](raw, luck) if raw else luck.randbytes(8))
        return
    neighbours = sorted(p for p in path.parent.iterdir() if p.is_file() and p.read_bytes() != path.read_bytes())
    other = luck.choice(neighbours).read_bytes() if neighbours else b"{}"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "other":
        path.write_bytes(other)


def copy_of(folder: Path, other: Path) -> None:
    """Copy a folder for spoiling."""
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(folder, other, symlinks=True)


def unmoved(path: Path, before: os.stat_result) -> None:
    """Give a file its old time back: a disk that spoils a file changes no dates."""
    if path.is_file() and not path.is_symlink():
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
