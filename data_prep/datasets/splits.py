"""Which split an image belongs to: read from a column, or drawn by hash."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from typing import Any

from data_prep.datasets.tables import Table
from rank_xmodal.errors import UserError

_NAMES = {"train": "train", "val": "val", "validation": "val", "dev": "val", "valid": "val", "test": "test"}


def named_split(name: str) -> str | None:
    """Return train, val or test for one of their names, "validation" and "dev" among them; None for another."""
    return _NAMES.get(name.lower())


def read_splits(table: Table) -> list[str]:
    """Return the split column as train, val or test ("validation" and "dev" mean val).

    Raises
    ------
    UserError
        If a value is none of these.
    """
    splits = []
    for row, value in enumerate(table["split"]):
        split = named_split(value)
        if split is None:
            raise UserError(f"{table.at(row)}: split {value!r} must be train, val (validation, dev) or test.")
        splits.append(split)
    return splits


def split_of_images(table: Table, images: Sequence[Hashable], splits: Sequence[str]) -> dict[Any, str]:
    """Return the split of each image, given the image and the split of each caption.

    Raises
    ------
    UserError
        If an image has captions in two splits: the ranker would be tested on what it was trained on.
    """
    first: dict[Hashable, int] = {}
    for row, image in enumerate(images):
        start = first.setdefault(image, row)
        if splits[start] != splits[row]:
            raise UserError(
                f"{table.at(row)}: image {image!r} is in split {splits[row]!r} here and in {splits[start]!r} in "
                f"{table.unit} {table.places[start]}. All captions of an image belong in one split."
            )
    return {image: splits[row] for image, row in first.items()}


def random_splits(images: Sequence[str], seed: int, where: str) -> dict[str, str]:
    """Deal distinct images out to train, val and test, 80/10/10, in the order of a hash of seed and name.

    The order of the rows does not matter, and the same seed always gives the same split.

    Raises
    ------
    UserError
        If there are fewer than three images.
    """
    count = len(images)
    if count < 3:
        raise UserError(f"{where}: {count} image(s) can't be dealt out to train, val and test. Add a split column.")
    order = sorted(images, key=lambda image: hashlib.sha256(f"{seed}\x1f{image}".encode("utf-8", "replace")).digest())
    part = max(1, round(count / 10))
    names = ["test"] * part + ["val"] * part + ["train"] * (count - 2 * part)
    return dict(zip(order, names, strict=True))
