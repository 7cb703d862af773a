"""`mirflickr`: MIRFlickr-25K, photos with their owners' tags and 24 classes (Huiskes and Lew, 2008)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from data_prep.datasets.corpus import Corpus
from data_prep.datasets.labelled import Item, first_folder, labelled_corpus
from data_prep.datasets.plain_text import read_lines, words_of
from rank_xmodal.errors import UserError

_ANNOTATIONS = ("annotations", "mirflickr25k_annotations_v080", "annotations_v080", "mirflickr25k_annotations")


def load_mirflickr(root: Path, seed: int = 0, say: Callable[[str], None] = print) -> Corpus:
    """Read im1.jpg, im2.jpg, ..., meta/tags/tags1.txt, ... and a file of image numbers for each class.

    An image's tags are its one caption. The classes are the 24 "potential" ones; files NAME_r1.txt, of images to which
    a class matters most, are not read.

    Parameters
    ----------
    root : Path
        What mirflickr25k.zip holds, or the folder around it; the annotations lie in either.
    seed : int
        Deals the images out 80/10/10, for the corpus has no splits.

    Raises
    ------
    UserError
        If images, tags or annotations are missing, or a file of a class names what is no image.
    """
    root = Path(root)
    folder = first_folder((root / "mirflickr", root / "data", root), "images", "Unpack mirflickr25k.zip there.")
    numbers = _numbers(folder) or _numbers(folder := root)
    if not numbers:
        raise UserError(f"{root}: no images im1.jpg, im2.jpg, ... Unpack mirflickr25k.zip there.")
    tags = first_folder(
        (folder / "meta" / "tags", root / "meta" / "tags", root / "tags"), "tags", "Unpack mirflickr25k.zip again."
    )
    annotations = first_folder(
        [place / sub for place in dict.fromkeys((root, folder)) for sub in _ANNOTATIONS],
        "annotations",
        "Unpack mirflickr25k_annotations_v080.zip into it.",
    )
    classes = _classes(annotations, set(numbers), folder)
    items = []
    for number in numbers:
        said = " ".join(words_of(tag) for tag in read_lines(tags / f"tags{number}.txt")).strip()
        items.append(Item(f"im{number}.jpg", [said] if said else [], classes[number]))
    return labelled_corpus("mirflickr", items, folder, seed, say)


def _numbers(folder: Path) -> list[int]:
    names = (re.fullmatch(r"im([1-9]\d{0,8})\.jpg", name, re.ASCII) for name in sorted(os.listdir(folder)))
    return sorted(int(name.group(1)) for name in names if name)


def _classes(folder: Path, known: set[int], images: Path) -> dict[int, set[str]]:
    """Return the classes of each image, by its number."""
    files = sorted(
        path for path in folder.glob("*.txt") if not path.stem.endswith("_r1") and not path.stem.startswith("README")
    )
    if not files:
        raise UserError(f"{folder}: no annotations, as animals.txt. Unpack mirflickr25k_annotations_v080.zip into it.")
    classes: dict[int, set[str]] = {number: set() for number in known}
    for path in files:
        for row, value in enumerate(read_lines(path), 1):
            if not re.fullmatch(r"\d{1,9}", value, re.ASCII) or int(value) not in known:
                raise UserError(
                    f"{path}, line {row}: {value[:50]!r} is no number of an image of {images}. Bring the annotations "
                    "or the images again."
                )
            classes[int(value)].add(path.stem)
    return classes
