"""`wikipedia`: 2,866 images with the section of the article around them, in ten classes (Rasiwasia et al., 2010)."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Callable
from pathlib import Path

from data_prep.datasets.corpus import Corpus, leaves
from data_prep.datasets.labelled import Item, first_folder, labelled_corpus
from data_prep.datasets.plain_text import read_lines, read_text, words_of
from rank_xmodal.errors import UserError

_LISTS = {"train": "trainset_txt_img_cat.list", "test": "testset_txt_img_cat.list"}


def load_wikipedia(root: Path, say: Callable[[str], None] = print) -> Corpus:
    """Read texts/TEXT.xml, images/CLASS/IMAGE.jpg, categories.list and the two lists, which are the splits.

    A text is the one caption of its image.

    Raises
    ------
    UserError
        If a file is missing, a list is malformed or leads out of the folder, or a text has no <text>.
    """
    root = Path(root)
    names = [name for name in read_lines(root / "categories.list") if name]
    texts = first_folder([root / "texts"], "texts", "Unpack the corpus again.")
    images = first_folder([root / "images"], "images", "Unpack the corpus again.")
    items = []
    for split, file in _LISTS.items():
        for row, (text, image, number) in enumerate(read_list(root / file), 1):
            if number > len(names):
                raise UserError(
                    f"{root / file}, line {row}: the class {number} is none of the {len(names)} in categories.list. "
                    "Bring both again."
                )
            label = names[number - 1]
            nested = f"{label}/{image}.jpg"
            if leaves(nested):
                raise UserError(
                    f"{root / 'categories.list'}: the class {label!r} leads out of {images}. Bring the file again."
                )
            path = nested if os.path.isfile(images / nested) else f"{image}.jpg"  # some have them all in one folder
            if not os.path.isfile(images / path):
                raise UserError(f"{root / file}, line {row}: the image {nested!r} is not in {images}. Bring the file.")
            items.append(Item(path, _section(texts / f"{text}.xml"), [label], split))
    return labelled_corpus("wikipedia", items, images, say=say)


def read_list(path: Path) -> list[tuple[str, str, int]]:
    """Return the rows of a list: text, image and the number of the class, from 1 on.

    Raises
    ------
    UserError
        If the file is missing or empty, or a line is of another form, or names a file elsewhere.
    """
    rows = []
    for row, line in enumerate(read_lines(path), 1):
        fields = line.split()
        if len(fields) != 3 or not re.fullmatch(r"[1-9]\d{0,8}", fields[2], re.ASCII):
            raise UserError(
                f"{path}, line {row}: {line[:80]!r} must hold a text, an image and the number of a class. Bring the "
                "file again."
            )
        for name in fields[:2]:
            if re.search(r"[/\\:\0]", name) or name.startswith("."):
                raise UserError(f"{path}, line {row}: {name[:80]!r} is no plain name and may lead elsewhere. Mend it.")
        rows.append((fields[0], fields[1], int(fields[2])))
    if not rows:
        raise UserError(f"{path}: the list is empty. Bring it again.")
    return rows


def _section(path: Path) -> list[str]:
    """Return the text of a section, in a list; the files are no valid XML, so no parser reads them."""
    found = re.search(r"<text>(.*)</text>", read_text(path), re.DOTALL)
    if not found:
        raise UserError(f"{path}: holds no <text> ... </text>. Bring the file again.")
    said = words_of(html.unescape(found.group(1)))
    return [said] if said else []
