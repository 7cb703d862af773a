"""Text files that come with a corpus: lists, tags, sentences."""

from __future__ import annotations

from pathlib import Path

from rank_xmodal.errors import UserError
from rank_xmodal.files.reading import unreadable

_LONGEST = 1 << 28  # bytes: the longest list that is known, the tags of NUS-WIDE, has 24 million


def read_text(path: Path) -> str:
    """Return a file's text: UTF-8, or else Latin 1, as nobody can mend one byte in 25,000 files of tags.

    Raises
    ------
    UserError
        If it is missing, not to be read, or longer than any list of a corpus is.
    """
    try:
        with path.open("rb") as handle:
            raw = handle.read(_LONGEST + 1)
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        raise unreadable(path, error if isinstance(error, OSError) else OSError(str(error))) from error
    if len(raw) > _LONGEST:
        raise UserError(f"{path}: longer than {_LONGEST:,} bytes. Name another file.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def read_lines(path: Path) -> list[str]:
    """Return a file's lines, stripped; blank ones at its end are left out.

    Raises
    ------
    UserError
        As `read_text`.
    """
    lines = [line.strip() for line in read_text(path).replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def words_of(text: str) -> str:
    """Return a text on one line, without characters that are no text."""
    return " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())
