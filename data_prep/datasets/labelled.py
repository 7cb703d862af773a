"""Images with words and classes, as labelled corpora have them, as a `Corpus`."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.datasets.corpus import Corpus, image_table, relevance_table, text_table
from data_prep.datasets.splits import random_splits
from rank_xmodal.errors import UserError


@dataclass(frozen=True)
class Item:
    """An image, what is said of it, and its classes."""

    image: str  # path, relative to the image folder
    captions: Sequence[str]
    classes: Collection[str]
    split: str = ""  # "" where the corpus has none


def labelled_corpus(
    name: str, items: Sequence[Item], folder: Path, seed: int = 0, say: Callable[[str], None] = print
) -> Corpus:
    """Make a corpus of items; those without a class or without words are left out, as papers do, and counted.

    Parameters
    ----------
    name : str
    items : sequence of Item
        All with a split, or all without: then they are dealt out 80/10/10 by `seed`.
    folder : Path
        The image folder.

    Raises
    ------
    UserError
        If an image is missing or stands there twice, a class has no name that labels can hold, or nothing is left.
    """
    kept = [item for item in items if item.classes and item.captions]
    tell_left_out(
        say,
        name,
        len(items),
        {
            "without a class": sum(not item.classes for item in items),
            "without words": sum(bool(item.classes) and not item.captions for item in items),
        },
    )
    if not kept:
        raise UserError(f"{folder}: none of {len(items):,} items has both a class and words. Bring the files again.")
    _check(kept, folder)
    images = [item.image for item in kept]
    if kept[0].split:
        splits = [item.split for item in kept]
    else:
        dealt = random_splits(images, seed, str(folder))
        splits = [dealt[image] for image in images]
        say(f"{name}: {len(images):,} images dealt out 80/10/10 (seed {seed})")
    labels = ["|".join(sorted(item.classes)) for item in kept]
    owner = [row for row, item in enumerate(kept) for _ in item.captions]
    return Corpus(
        name=name,
        images=image_table(images, images, splits, labels),
        texts=text_table(
            [f"{item.image}#{number}" for item in kept for number in range(len(item.captions))],
            [caption for item in kept for caption in item.captions],
            [splits[row] for row in owner],
            [labels[row] for row in owner],
        ),
        relevance=relevance_table(owner),
        image_root=folder,
    )


def tell_left_out(say: Callable[[str], None], name: str, count: int, reasons: dict[str, int]) -> None:
    """Say how many of `count` items are left out, and why; nothing where none is."""
    found = [f"{number:,} {reason}" for reason, number in reasons.items() if number]
    if found:
        say(f"{name}: of {count:,} items left out: {', '.join(found)}")


def first_folder(places: Iterable[Path], what: str, remedy: str) -> Path:
    """Return the first of several places that is a folder.

    Raises
    ------
    UserError
        If none is.
    """
    places = list(places)
    for place in places:
        if place.is_dir():
            return place
    others = f" (nor {', '.join(map(str, places[1:]))})" if places[1:] else ""
    raise UserError(f"{places[0]}: no such folder of {what}{others}. {remedy}")


def _check(items: Sequence[Item], folder: Path) -> None:
    seen: set[str] = set()
    missing = [item.image for item in items if not os.path.isfile(folder / item.image)]
    if missing:
        raise UserError(
            f"{folder}: {len(missing):,} of the {len(items):,} images are not there, the first being {missing[0]!r}. "
            "Unpack the images again."
        )
    for item in items:
        if item.image in seen:
            raise UserError(f"{folder}: the image {item.image!r} stands there twice. Name it once.")
        seen.add(item.image)
        for label in item.classes:
            if not label.strip() or label != label.strip() or "|" in label:
                raise UserError(
                    f"{folder / item.image}: the class {label!r} needs another name, without '|' and blanks around it."
                )
