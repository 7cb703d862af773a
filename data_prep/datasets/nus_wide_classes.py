"""What NUS-WIDE says in text files: its images, their splits and their classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.datasets.corpus import leaves
from data_prep.datasets.plain_text import read_lines
from rank_xmodal.errors import UserError

# Where the archives leave their files, whether each was unpacked into a folder of its own or not.
_FOLDERS = (
    ".",
    "ImageList",
    "Groundtruth",
    "NUS_WID_Tags",
    "Low_Level_Features",
    "NUS_WID_Low_Level_Features/Low_Level_Features",
)
_LISTS = {"train": "TrainImagelist.txt", "test": "TestImagelist.txt"}


@dataclass(frozen=True)
class Split:
    """Images of a split, in the order of its list, and which classes they have.

    Attributes
    ----------
    images : list of str, n
        CLASS/NUMBER_ID.jpg.
    truth : (n, C) bool
    """

    images: list[str]
    truth: np.ndarray


def find(root: Path, name: str) -> Path | None:
    """Return where a file or folder of the release lies under `root`; None where it doesn't."""
    places = (root / sub / name for sub in _FOLDERS)
    return next((place for place in places if place.is_file() or place.is_dir()), None)


def needed(root: Path, name: str, archive: str) -> Path:
    """Return where a file of the release lies under `root`.

    Raises
    ------
    UserError
        If it is not there; the message names its archive.
    """
    found = find(root, name)
    if found is None:
        raise UserError(
            f"{root}: no {name} (looked in it and in its folders {', '.join(_FOLDERS[1:])}). Unpack {archive} there."
        )
    return found


def image_list(path: Path) -> list[str]:
    r"""Return the images that a list names; it writes them as "actor\0001_2124494179.jpg".

    Raises
    ------
    UserError
        If the list is empty, or a line leads out of the image folder.
    """
    names = [line.replace("\\", "/") for line in read_lines(path)]
    for row, name in enumerate(names, 1):
        if not name or leaves(name) or "\0" in name or ":" in name:
            raise UserError(
                f"{path}, line {row}: {name[:80]!r} leads out of the image folder, or is no name. Bring the list again."
            )
    if not names:
        raise UserError(f"{path}: the list is empty. Bring it again.")
    return names


def read_classes(root: Path, most: int | None = None) -> tuple[list[str], dict[str, Split]]:
    """Return the names of the classes, C, and the splits train and test.

    Groundtruth/AllLabels is read, and Groundtruth/TrainTestLabels where it is missing: the release's own file of the
    lakes in train has a line that is neither 0 nor 1.

    Parameters
    ----------
    root : Path
    most : int, optional
        Keep the classes with the most images, as papers do (10, or 21); all 81 if not given.

    Raises
    ------
    UserError
        If a file is missing, lists and labels differ in length, or a label is neither 0 nor 1.
    """
    lists = {split: image_list(needed(root, name, "ImageList.zip")) for split, name in _LISTS.items()}
    whole = find(root, "AllLabels")
    if whole is not None:
        every = image_list(needed(root, "Imagelist.txt", "ImageList.zip"))
        files = _files(whole, "Labels_*.txt", "")
        truth = _columns(files.values(), len(every))
        at = {name: row for row, name in enumerate(every)}
        splits = {split: Split(names, truth[_rows(root, split, names, at)]) for split, names in lists.items()}
    else:
        folder = needed(root, "TrainTestLabels", "Groundtruth.zip")
        files = _files(folder, "Labels_*_Train.txt", "_Train")
        splits = {}
        for split, names in lists.items():
            own = [folder / f"Labels_{label}_{split.title()}.txt" for label in files]
            splits[split] = Split(names, _columns(own, len(names)))
    labels = list(files)
    if most is not None:
        if not 1 <= most <= len(labels):
            raise UserError(f"classes={most}: must be from 1 to {len(labels)}, the classes of {root}.")
        sizes = sum(split.truth.sum(axis=0) for split in splits.values())
        kept = sorted(np.argsort(-np.asarray(sizes), kind="stable")[:most])
        labels = [labels[column] for column in kept]
        splits = {name: Split(split.images, split.truth[:, kept]) for name, split in splits.items()}
    return labels, splits


def labels_of(truth: np.ndarray, names: Sequence[str]) -> list[list[str]]:
    """Return the classes of each row of `truth` (n, C), none for some."""
    return [[names[column] for column in np.flatnonzero(row).tolist()] for row in truth]


def _files(folder: Path, pattern: str, ending: str) -> dict[str, Path]:
    """Return the file of each class, by its name."""
    files = {path.stem.removeprefix("Labels_").removesuffix(ending): path for path in sorted(folder.glob(pattern))}
    if not files:
        raise UserError(f"{folder}: no labels, as {pattern.replace('*', 'sky')}. Unpack Groundtruth.zip again.")
    return files


def _columns(files: Iterable[Path], count: int) -> np.ndarray:
    """Return what files of zeros and ones say of `count` images, a column a file."""
    columns = []
    for path in files:
        lines = read_lines(path)
        if len(lines) != count:
            raise UserError(f"{path}: has {len(lines):,} lines, the list has {count:,} images. Bring both again.")
        column = np.array(lines)
        bad = np.flatnonzero((column != "0") & (column != "1"))
        if len(bad):
            raise UserError(
                f"{path}, line {bad[0] + 1}: {lines[bad[0]][:50]!r} is neither 0 nor 1. Unpack Groundtruth.zip with "
                "its folder AllLabels, which is read instead."
            )
        columns.append(column == "1")
    return np.stack(columns, axis=1)


def _rows(root: Path, split: str, names: list[str], at: dict[str, int]) -> list[int]:
    rows = [at.get(name, -1) for name in names]
    if -1 in rows:
        row = rows.index(-1)
        raise UserError(
            f"{needed(root, _LISTS[split], 'ImageList.zip')}, line {row + 1}: {names[row]!r} is not in Imagelist.txt. "
            "Unpack ImageList.zip again."
        )
    return rows
