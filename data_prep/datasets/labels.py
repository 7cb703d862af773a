"""The classes of items, from a column `labels`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from data_prep.datasets.tables import Table
from rank_xmodal.data.checks import classes_of
from rank_xmodal.errors import UserError


def read_labels(table: Table) -> list[str] | None:
    """Return the labels column, None where there is none: a class, or several as "a|b", sorted and each once.

    Raises
    ------
    UserError
        If a value is empty or names an empty class ("a||b").
    """
    if "labels" not in table:
        return None
    result = []
    for row, value in enumerate(table["labels"]):
        names = {name.strip() for name in classes_of(value)}
        if not names:
            raise UserError(
                f"{table.at(row)}: labels is empty. Name the item's class, or delete the {table.unit}; without classes "
                "for all, leave out the column."
            )
        if "" in names:
            raise UserError(f"{table.at(row)}: labels {value!r} names an empty class. Write one class, or 'a|b'.")
        result.append("|".join(sorted(names)))
    return result


def labels_of_images(table: Table, images: Sequence[Hashable], labels: Sequence[str] | None) -> dict[Any, str]:
    """Return the labels of each image, given the image and the labels of each caption; none without labels.

    Raises
    ------
    UserError
        If captions of one image differ in their classes: they all describe one item. A caption that names fewer
        classes than its sibling is refused, too, since nobody can tell a slip from a meaning.
    """
    if labels is None:
        return {}
    first: dict[Hashable, int] = {}
    for row, image in enumerate(images):
        start = first.setdefault(image, row)
        if labels[start] != labels[row]:
            raise UserError(
                f"{table.at(row)}: image {image!r} has labels {labels[row]!r} here and {labels[start]!r} in "
                f"{table.unit} {table.places[start]}. Give all captions of an image the same classes; an item of "
                "several names them all, 'a|b'."
            )
    return {image: labels[row] for image, row in first.items()}
