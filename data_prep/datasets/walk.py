"""Finding the image files in a folder and in all folders below it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from data_prep.images import SUFFIXES
from rank_xmodal.errors import UserError
from rank_xmodal.files.reading import unreadable


@dataclass
class Found:
    """What a folder holds.

    Attributes
    ----------
    images : list of str
        Names relative to the folder, with "/", sorted. A link whose file is gone is among them: who reads it, tells.
    others : Counter of str
        How many files are no images, by suffix.
    hidden : int
        Files and folders whose names begin with a dot; these folders are not looked into.
    """

    images: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    hidden: int = 0

    def __str__(self) -> str:
        """Say what was left out; "" where nothing was."""
        parts = [f"{count:,} {suffix}" for suffix, count in self.others.most_common(5)]
        more = sum(self.others.values()) - sum(count for _, count in self.others.most_common(5))
        parts += [f"{more:,} others"] * bool(more) + [f"{self.hidden:,} hidden"] * bool(self.hidden)
        return f"left out, as no images: {', '.join(parts)}" if parts else ""


def find_images(root: Path) -> Found:
    """Look for image files, by their suffixes. Links are followed, but no folder is walked twice.

    Raises
    ------
    UserError
        If a folder can't be read, or an image's name is no Unicode text, which no table can hold.
    """
    found = Found()
    for name, entry in _entries(root, "", set()):
        suffix = PurePosixPath(name).suffix.lower()
        if entry.name.startswith("."):
            found.hidden += 1
        elif suffix in SUFFIXES and (os.path.isfile(entry.path) or _is_broken_link(entry)):
            _check_name(root, name)
            found.images.append(name)
        else:
            found.others[suffix if suffix.isascii() and suffix.isprintable() and suffix else "without suffix"] += 1
    found.images.sort()
    return found


def _entries(folder: Path | str, prefix: str, walked: set[tuple[int, int]]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    try:
        facts = os.stat(folder)
        if (facts.st_dev, facts.st_ino) in walked:  # a link to a folder above it would be walked for ever
            return
        walked.add((facts.st_dev, facts.st_ino))
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        said = str(unreadable(folder, error))
        raise UserError(f"{said} Or move the folder out of the one that is embedded.") from error
    for entry in entries:
        # os.path answers where an entry raises, as for links in a circle.
        if os.path.isdir(entry.path) and not entry.name.startswith("."):
            yield from _entries(entry.path, f"{prefix}{entry.name}/", walked)
        else:
            yield f"{prefix}{entry.name}", entry


def _is_broken_link(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def _check_name(root: Path, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"{root}: the file name {os.fsencode(name)!r} is no UTF-8. Rename the file.") from None
