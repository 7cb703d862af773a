"""`folder`: your own images, with a table of captions or without."""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from data_prep.datasets.corpus import Corpus, image_table, leaves, relevance_table, text_table
from data_prep.datasets.labels import labels_of_images, read_labels
from data_prep.datasets.splits import random_splits, read_splits, split_of_images
from data_prep.datasets.tables import Table, read_captions
from data_prep.datasets.walk import find_images
from data_prep.images import SUFFIXES
from rank_xmodal.errors import UserError
from rank_xmodal.files import sha256_of_file


def load_folder(
    root: Path,
    captions: Path | None = None,
    images: Path | None = None,
    seed: int = 0,
    skip_broken: bool = False,
    say: Callable[[str], None] = print,
) -> Corpus:
    """Read a folder of images and its captions table; an image with several captions has several rows.

    Without such a table all images in it and below it become a corpus to search in, in the split test.

    Parameters
    ----------
    root : Path
        The image folder.
    captions : Path, optional
        CSV or Parquet with columns image (file name relative to the image folder), caption, and optionally split
        (train, val, test), caption_id and labels (the item's class, or several as "a|b"). root/captions.csv or
        root/captions.parquet if not given and there is one.
    images : Path, optional
        The image folder, where it isn't `root`.
    seed : int
        Deals the images out 80/10/10 where there is no split column, copies of a file into one split.
    skip_broken : bool
        Images that the table names may be missing: `embed` leaves them out, as it does all that it can't read.

    Raises
    ------
    UserError
        If a file, a column or an image is missing, an image leads out of its folder, a caption is empty, a caption_id
        occurs twice, a split is unknown, an image has captions in two of them, or labels are empty or differ between
        captions of an image. Without a table: if there is no image.
    """
    root = Path(root)
    folder = Path(images) if images else root
    for place in {root, folder}:
        if not place.is_dir():
            raise UserError(f"{place}: no such folder. Name the folder of your images with --root.")
    source = Path(captions) if captions else _find_captions(root)
    if source is None:
        return _images_alone(root, folder, say)
    table = read_captions(source, ("image", "caption"))
    table.filled("image")
    table.filled("caption")
    if "caption_id" in table:
        table.filled("caption_id")
        table.unique("caption_id")
    names = [Path(name).as_posix() for name in table["image"]]  # ./a.jpg is a.jpg
    for row, name in enumerate(names):
        if leaves(name):
            raise UserError(
                f"{table.at(row)}: image {name!r} leads out of {folder}. Name a file inside it, or put a link to the "
                "file's folder there."
            )
    spelt = {name: _spelt(name, folder) for name in dict.fromkeys(names)}
    names = [spelt[name] for name in names]
    rows = {name: i for i, name in enumerate(dict.fromkeys(names))}
    if not skip_broken:
        _check_files(table, names, folder)
    if "split" in table:
        split_of = split_of_images(table, names, read_splits(table))
    else:
        split_of = _dealt(table, list(rows), folder, seed, say)
    labels = read_labels(table)
    of_image = labels_of_images(table, names, labels)
    ids = table["caption_id"] if "caption_id" in table else [str(row) for row in range(len(table))]
    return Corpus(
        name=root.resolve().name or "folder",
        images=image_table(
            list(rows),
            list(rows),
            [split_of[name] for name in rows],
            [of_image[name] for name in rows] if labels else None,
        ),
        texts=text_table(ids, table["caption"], [split_of[name] for name in names], labels),
        relevance=relevance_table([rows[name] for name in names]),
        image_root=folder,
    )


def _find_captions(root: Path) -> Path | None:
    found = [root / name for name in ("captions.csv", "captions.parquet") if (root / name).is_file()]
    if len(found) > 1:
        raise UserError(f"{root}: both captions.csv and captions.parquet. Name the table with --captions.")
    return found[0] if found else None


def _images_alone(root: Path, folder: Path, say: Callable[[str], None]) -> Corpus:
    found = find_images(folder)
    names = found.images
    if not names:
        raise UserError(f"{folder}: holds no images ({', '.join(sorted(SUFFIXES))}). Name their folder with --root.")
    say(
        f"{root}: no captions.csv, so its {len(names):,} images become a corpus to search in, without captions; a "
        "table of captions elsewhere is named with --captions"
    )
    if str(found):
        say(f"{folder}: {found}")
    return Corpus(
        name=root.resolve().name or "folder",
        images=image_table(names, names, ["test"] * len(names)),
        texts=text_table([], [], []),
        relevance=relevance_table([]),
        image_root=folder,
    )


def _dealt(table: Table, names: list[str], folder: Path, seed: int, say: Callable[[str], None]) -> dict[str, str]:
    first = _first_copies(names, folder)
    dealt = random_splits(sorted(set(first.values())), seed, str(table.path))
    copies = len(names) - len(dealt)
    also = f", {copies:,} of them copies of others, which go with these" if copies else ""
    say(f"{table.path.name}: no split column; {len(names):,} images dealt out 80/10/10 (seed {seed}){also}")
    return {name: dealt[first[name]] for name in names}


def _first_copies(names: list[str], folder: Path) -> dict[str, str]:
    """Return for each image the first, by name, of the same bytes: nobody is tested on what was learnt."""
    like: dict[int | str, list[str]] = defaultdict(list)
    for name in sorted(names):
        path = folder / name
        like[path.stat().st_size if os.path.isfile(path) else name].append(name)
    first: dict[str, str] = {}
    for same_size in like.values():  # only these are read
        by_bytes: dict[str, str] = {}
        for name in same_size:
            key = sha256_of_file(folder / name) if len(same_size) > 1 else name
            first[name] = by_bytes.setdefault(key, name)
    return first


def _spelt(name: str, folder: Path) -> str:
    """Return a name as the folder has it: an é may be one character, or an e and an accent, as macOS writes it."""
    if name.isascii() or os.path.isfile(folder / name):
        return name
    forms = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    return next((form for form in forms if os.path.isfile(folder / form)), name)


def _check_files(table: Table, names: list[str], folder: Path) -> None:
    # os.path answers where pathlib raises: for a name that is too long, or in a folder that may not be read.
    known = {name: os.path.isfile(folder / name) for name in dict.fromkeys(names)}
    missing = [name for name, there in known.items() if not there]
    if not missing:
        return
    row = names.index(missing[0])
    parent = (folder / missing[0]).parent
    readable = os.access(parent, os.R_OK) and parent.is_dir()
    there = sorted(entry.name for entry in parent.iterdir() if entry.is_file()) if readable else []
    wanted, slashed = Path(missing[0]).name, missing[0].replace("\\", "/")  # of a table that Windows wrote
    near = [slashed] if os.path.isfile(folder / slashed) else []
    near = near or [name for name in there if name.lower() == wanted.lower()]
    near = near or difflib.get_close_matches(wanted, there, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    more = f" ({len(missing):,} images are missing.)" if len(missing) > 1 else ""
    raise UserError(
        f"{table.at(row)}: image {missing[0]!r} is not in {folder}.{hint} Bring the file, delete the row, or "
        f"leave such images out with --skip-broken.{more}"
    )
