"""`nus_wide`: photos of Flickr with their tags and 81 classes (Chua et al., 2009)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from data_prep.datasets.corpus import Corpus
from data_prep.datasets.labelled import Item, first_folder, labelled_corpus
from data_prep.datasets.nus_wide_classes import image_list, labels_of, needed, read_classes
from data_prep.datasets.plain_text import read_lines, words_of
from rank_xmodal.errors import UserError

_IMAGES = ("Flickr", "images", "image", "images/Flickr")


def load_nus_wide(root: Path, classes: int | None = None, say: Callable[[str], None] = print) -> Corpus:
    """Read the photos, the lists, All_Tags.txt and the labels; splits are those of the release, train and test.

    A photo's tags are its one caption. Photos that are not there are left out, for many have gone from Flickr.

    Parameters
    ----------
    root : Path
        Holds Flickr/CLASS/NUMBER_ID.jpg, and what ImageList.zip, Groundtruth.zip and NUS_WID_Tags.zip hold.
    classes : int, optional
        Keep the classes with the most images (papers: 10, or 21), and what is in one of them.

    Raises
    ------
    UserError
        If a file is missing, lists, tags and labels don't fit together, or a list leads out of the image folder.
    """
    root = Path(root)
    names, splits = read_classes(root, classes)
    tags = _tags(root)
    folder = first_folder([root / sub for sub in _IMAGES], "images", "Unpack the photos there.")
    items = [
        Item(image, tags.get(image, []), own, split)
        for split, part in splits.items()
        for image, own in zip(part.images, labels_of(part.truth, names), strict=True)
    ]
    there = [item for item in items if os.path.isfile(folder / item.image)]
    if not there:
        raise UserError(f"{folder}: none of {len(items):,} photos is there, as {items[0].image}. Unpack them again.")
    if len(there) < len(items):
        say(f"nus_wide: {len(items) - len(there):,} of {len(items):,} photos are not in {folder}; left out")
    return labelled_corpus("nus_wide", there, folder, say=say)


def _tags(root: Path) -> dict[str, list[str]]:
    """Return the tags of each image on one line, in a list; an empty one where it has none."""
    images = image_list(needed(root, "Imagelist.txt", "ImageList.zip"))
    path = needed(root, "All_Tags.txt", "NUS_WID_Tags.zip")
    lines = read_lines(path)
    if len(lines) != len(images):
        raise UserError(f"{path}: has {len(lines):,} lines, Imagelist.txt has {len(images):,}. Bring both again.")
    tags = {}
    for row, (image, line) in enumerate(zip(images, lines, strict=True), 1):
        number, _, said = words_of(line).partition(" ")
        if number != PurePosixPath(image).stem.rpartition("_")[2]:
            raise UserError(
                f"{path}, line {row}: tags of the photo {number[:50]!r}, but Imagelist.txt has {image!r} there. Bring "
                "both again."
            )
        tags[image] = [said] if said else []
    return tags
