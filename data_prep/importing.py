"""Embedding sets from embeddings made elsewhere: two arrays and a table, or images' alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.arrays import normalised, open_array, plain, same_width
from data_prep.datasets.corpus import image_table, relevance_table, text_table
from data_prep.datasets.labels import labels_of_images, read_labels
from data_prep.datasets.splits import random_splits, read_splits, split_of_images
from data_prep.datasets.tables import Table, read_captions
from data_prep.encoder import Encoder
from data_prep.importing_encoder import check_encoder, check_width, facts_of
from data_prep.replace import check_replaceable
from rank_xmodal.data.embedding_set import EmbeddingSet, fingerprint_of
from rank_xmodal.errors import UserError


def import_embeddings(
    images: Path | str,
    texts: Path | str | None,
    captions: Path | str | None,
    out: Path | str,
    name: str | None = None,
    *,
    unaligned: bool = False,
    encoder: Encoder | None = None,
    seed: int = 0,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> EmbeddingSet:
    """Write an embedding set from arrays made elsewhere.

    Parameters
    ----------
    images : .npy (n_images, d), any float type
    texts : .npy (n_texts, d), or None
        Without texts and captions the images become a corpus to search in, in the split test.
    captions : CSV or Parquet with columns caption_id, image_id and, optionally, caption and split; or None
        Its row i belongs to row i of `texts`; image_id is a row of `images`, counted from 0. Where it has a column
        image_file or source, that is kept as the image's path; labels are the item's class, or several as "a|b". An
        image without a caption gets the split "none". A caption whose words are lost is shown as its id, "[c17]".
    out : Path
        The folder to be made.
    name : str, optional
        What tables call the set; the folder's name if not given.
    unaligned : bool
        The sides are features of two kinds: kept as they are, of any widths, and never compared by their cosine.
    encoder : Encoder, optional
        What made the arrays, so that the set can be searched by new texts and images. Some items are encoded again.
    seed : int
        Deals the images out 80/10/10 where there is no split column.

    Raises
    ------
    UserError
        If an array is no plain float matrix, has a row that is zero or not finite, widths or counts differ, the table
        has a bad value, or another encoder made the arrays; the message names file and row.
    """
    out, images = Path(out), Path(images)
    check_replaceable(out, overwrite=True)  # before hours of work; whether it may be replaced, `written` finds
    image_emb = open_array(images)
    check_width(encoder, (images, image_emb))
    if texts is None or captions is None:
        if texts is not captions or unaligned:
            raise UserError(
                f"{images}: give the array of the texts and the table of captions, both, or neither: images alone, "
                "aligned, make a corpus to search in."
            )
        return _images_alone(images, image_emb, out, name, encoder, overwrite, say)
    texts = Path(texts)
    table, text_emb = read_captions(Path(captions), ("caption_id", "image_id")), open_array(texts)
    if not unaligned:
        same_width([(images, image_emb), (texts, text_emb)])
    if len(text_emb) != len(table):
        raise UserError(
            f"{texts} has {len(text_emb):,} rows and {table.path} has {len(table):,} captions. Row i of one must "
            "belong to row i of the other."
        )
    table.filled("caption_id")
    table.unique("caption_id")
    owner = _image_rows(table, len(image_emb), images)
    words, lost = known_words(table, table["caption_id"], say)
    split_of = splits_of(table, owner, seed, say)
    labels = read_labels(table)
    of_image = labels_of_images(table, owner, labels)
    without = len(image_emb) - len(split_of)
    if without:
        say(f"{images}: {without:,} of {len(image_emb):,} images have no caption; kept in split 'none', never used")
    rows = range(len(image_emb))
    stored = plain if unaligned else lambda path, array: normalised([(path, array)], out)
    made = EmbeddingSet(
        stored(images, image_emb),
        stored(texts, text_emb),
        image_table(
            [str(row) for row in rows],
            _paths(table, owner, len(image_emb)),
            [split_of.get(row, "none") for row in rows],
            [of_image.get(row, "") for row in rows] if labels else None,
        ),
        text_table(table["caption_id"], words, [split_of[row] for row in owner], labels),
        relevance_table(owner),
        {
            **meta_of(out, name, "import", encoder),
            **({"aligned": False} if unaligned else {}),
            **({"captions_lost": int(lost.sum())} if lost.any() else {}),
        },
    )
    check_encoder(encoder, made, lost, out, say)
    return written(made, out, overwrite, say)


def _images_alone(
    images: Path,
    image_emb: np.ndarray,
    out: Path,
    name: str | None,
    encoder: Encoder | None,
    overwrite: bool,
    say: Callable[[str], None],
) -> EmbeddingSet:
    ids = [str(row) for row in range(len(image_emb))]
    made = corpus_of_images(
        normalised([(images, image_emb)], out), ids, [""] * len(ids), meta_of(out, name, "import", encoder)
    )
    check_encoder(encoder, made, np.zeros(0, dtype=bool), out, say)
    say(f"{images}: {len(ids):,} images without captions, a corpus to search in")
    return written(made, out, overwrite, say)


def corpus_of_images(
    image_emb: np.ndarray, ids: Sequence[str], paths: Sequence[str], meta: dict[str, Any]
) -> EmbeddingSet:
    """Return a set of images without captions: a corpus to search in, all of it in the split test."""
    table = image_table(ids, paths, ["test"] * len(ids))
    return EmbeddingSet(image_emb, image_emb[:0], table, text_table([], [], []), relevance_table([]), meta)


def known_words(table: Table, ids: Sequence[str], say: Callable[[str], None]) -> tuple[list[str], np.ndarray]:
    """Return the captions of a table, those whose words are lost as their ids, and which these are: (n,) bool."""
    words = table["caption"] if "caption" in table else [""] * len(table)
    lost = np.array([not text for text in words], dtype=bool)
    if lost.any():
        say(
            f"{table.path}: the words of {int(lost.sum()):,} of {len(words):,} captions are lost; such a caption is "
            f"shown as its id, [{ids[int(lost.argmax())]}]"
        )
    return [text or f"[{name}]" for text, name in zip(words, ids, strict=True)], lost


def splits_of(table: Table, images: Sequence[Hashable], seed: int, say: Callable[[str], None]) -> dict[Any, str]:
    """Return the split of each image, read from the table or dealt out 80/10/10, given the image of each caption."""
    if "split" in table:
        return split_of_images(table, images, read_splits(table))
    distinct = list(dict.fromkeys(images))
    say(f"{table.path}: no split column; {len(distinct):,} images dealt out 80/10/10 (seed {seed})")
    dealt = random_splits([str(image) for image in distinct], seed, str(table.path))
    return {image: dealt[str(image)] for image in distinct}


def written(made: EmbeddingSet, out: Path, overwrite: bool, say: Callable[[str], None]) -> EmbeddingSet:
    """Write a set, unless it is there: a command that was killed at its very end can be repeated."""
    if not overwrite and (out / "meta.json").is_file():
        with suppress(UserError):  # what is there is broken, and check_replaceable says what to do
            known = EmbeddingSet.open(out)
            same_meta = all(known.meta.get(key) == value for key, value in made.meta.items())
            if same_meta and known.fingerprint == fingerprint_of(made) and _same_tables(known, made):
                say(f"{out}: already holds these embeddings; nothing to do")
                return known
    check_replaceable(out, overwrite)
    return made.write(out)


def _same_tables(known: EmbeddingSet, made: EmbeddingSet) -> bool:
    """Compare what the fingerprint leaves out."""
    if known.labelled != made.labelled or (made.labelled and known.labels_fingerprint != made.labels_fingerprint):
        return False
    return known.images["path"].tolist() == made.images["path"].tolist()


def meta_of(out: Path, name: str | None, dataset: str, encoder: Encoder | None = None) -> dict[str, Any]:
    """Say what is known; unless the user names it, nobody knows which model made the arrays."""
    return {"name": name or out.name, **facts_of(encoder), "dataset": dataset}


def _image_rows(table: Table, count: int, images: Path) -> list[int]:
    owner = []
    for row, value in enumerate(table["image_id"]):
        if not re.fullmatch(r"\d{1,18}", value, re.ASCII):
            raise UserError(
                f"{table.at(row)}: image_id {value!r} must be a row of {images}, a whole number counted from 0."
            )
        if int(value) >= count:
            raise UserError(f"{table.at(row)}: image_id {value} is out of range; {images} has rows 0 to {count - 1}.")
        owner.append(int(value))
    return owner


def _paths(table: Table, owner: list[int], count: int) -> list[str]:
    column = next((name for name in ("image_file", "source") if name in table), None)
    paths = [""] * count
    for value, image in zip(table[column] if column else [], owner, strict=False):
        paths[image] = paths[image] or value
    return paths
