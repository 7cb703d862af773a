"""`pascal_sentences`: 20 classes of 50 photos with five sentences each (Rashtchian et al., 2010)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from data_prep.datasets.corpus import Corpus
from data_prep.datasets.labelled import Item, labelled_corpus
from data_prep.datasets.plain_text import read_lines, words_of
from rank_xmodal.errors import UserError

_IMAGES = (".", "dataset", "images", "image")
_SENTENCES = (".", "sentence", "sentences", "text", "texts")
_KINDS = (".jpg", ".jpeg", ".png")


def load_pascal_sentences(root: Path, seed: int = 0, say: Callable[[str], None] = print) -> Corpus:
    """Read a folder for each class, CLASS/NAME.jpg, and the sentences of a photo, a line each, in CLASS/NAME.txt.

    Photos and sentences may lie side by side, or in trees of their own, as in dataset/CLASS/NAME.jpg and
    sentence/CLASS/NAME.txt.

    Parameters
    ----------
    root : Path
    seed : int
        Deals the photos out 80/10/10, for the corpus has no splits.

    Raises
    ------
    UserError
        If there are no such folders, or a photo has no file of sentences.
    """
    root = Path(root)
    folder, photos = _photos(root)
    first = photos[0].with_suffix(".txt")
    sentences = next((root / sub for sub in _SENTENCES if (root / sub / first).is_file()), None)
    if sentences is None and (folder / first).is_file():
        sentences = folder
    if sentences is None:
        raise UserError(
            f"{folder / photos[0]}: its sentences are not there (looked for {first} in {root} and its folders "
            f"{', '.join(_SENTENCES[1:])}). Put the sentences of each photo into such a file, a line each."
        )
    items = []
    for photo in photos:
        told = [words_of(line) for line in read_lines(sentences / photo.with_suffix(".txt"))]
        items.append(Item(photo.as_posix(), [line for line in told if line], [photo.parent.name]))
    return labelled_corpus("pascal_sentences", items, folder, seed, say)


def _photos(root: Path) -> tuple[Path, list[Path]]:
    """Return the folder of the classes' folders, and the photos in it, CLASS/NAME.jpg."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder. Name the folder of Pascal Sentences with --root.")
    for folder in (root / sub for sub in _IMAGES):
        found = [path.relative_to(folder) for path in folder.glob("*/*") if path.suffix.lower() in _KINDS]
        if found:
            return folder, sorted(found)
    raise UserError(
        f"{root}: no photos (looked for CLASS/NAME.jpg in it and in its folders {', '.join(_IMAGES[1:])}). Unpack "
        "Pascal Sentences there, a folder for each class."
    )
