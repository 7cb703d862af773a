"""Embedding sets from embeddings made elsewhere: two arrays and a table, or a clip-retrieval folder."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.arrays import Part, normalised, open_array, plain, same_width
from data_prep.datasets.corpus import image_table, relevance_table, text_table
from data_prep.datasets.labels import labels_of_images, read_labels
from data_prep.datasets.splits import random_splits, read_splits, split_of_images
from data_prep.datasets.tables import Table, read_captions
from data_prep.replace import check_replaceable
from rank_xmodal.data.embedding_set import EmbeddingSet, fingerprint_of
from rank_xmodal.errors import UserError


def import_embeddings(
    images: Path | str,
    texts: Path | str,
    captions: Path | str,
    out: Path | str,
    name: str | None = None,
    *,
    unaligned: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> EmbeddingSet:
    """Write an embedding set from arrays made elsewhere.

    Parameters
    ----------
    images : .npy (n_images, d), any float type
    texts : .npy (n_texts, d)
    captions : CSV or Parquet with columns caption_id, image_id, caption, split
        Its row i belongs to row i of `texts`; image_id is a row of `images`, counted from 0. Where it has a column
        image_file or source, that is kept as the image's path; labels are the item's class, or several as "a|b". An
        image without a caption gets the split "none".
    out : Path
        The folder to be made.
    name : str, optional
        What tables call the set; the folder's name if not given.
    unaligned : bool
        The sides are features of two kinds: kept as they are, of any widths, and never compared by their cosine.

    Raises
    ------
    UserError
        If an array is no plain float matrix, has a row that is zero or not finite, widths or counts differ, or the
        table has a bad value; the message names file and row.
    """
    out, images, texts = Path(out), Path(images), Path(texts)
    check_replaceable(out, overwrite=True)  # before hours of work; whether it may be replaced, `written` finds
    table = read_captions(Path(captions), ("caption_id", "image_id", "caption", "split"))
    image_emb, text_emb = open_array(images), open_array(texts)
    if not unaligned:
        same_width([(images, image_emb), (texts, text_emb)])
    if len(text_emb) != len(table):
        raise UserError(
            f"{texts} has {len(text_emb):,} rows and {table.path} has {len(table):,} captions. Row i of one must "
            "belong to row i of the other."
        )
    table.filled("caption_id")
    table.unique("caption_id")
    table.filled("caption")
    owner = _image_rows(table, len(image_emb), images)
    splits = read_splits(table)
    split_of = split_of_images(table, owner, splits)
    labels = read_labels(table)
    of_image = labels_of_images(table, owner, labels)
    without = len(image_emb) - len(split_of)
    if without:
        say(f"{images}: {without:,} of {len(image_emb):,} images have no caption; kept in split 'none', never used")
    paths = _paths(table, owner, len(image_emb))
    rows = range(len(image_emb))
    stored = plain if unaligned else lambda path, array: normalised([(path, array)])
    made = EmbeddingSet(
        stored(images, image_emb),
        stored(texts, text_emb),
        image_table(
            [str(row) for row in rows],
            paths,
            [split_of.get(row, "none") for row in rows],
            [of_image.get(row, "") for row in rows] if labels else None,
        ),
        text_table(table["caption_id"], table["caption"], splits, labels),
        relevance_table(owner),
        {**meta_of(out, name, "import"), **({"aligned": False} if unaligned else {})},
    )
    return written(made, out, overwrite, say)


def import_clip_retrieval(
    folder: Path | str,
    out: Path | str,
    name: str | None = None,
    *,
    seed: int = 0,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> EmbeddingSet:
    """Write an embedding set from a folder that `clip-retrieval inference` made.

    It holds img_emb/img_emb_N.npy, text_emb/text_emb_N.npy and metadata/metadata_N.parquet with columns image_path and
    caption; row i of the three belong together. Rows with one image_path are one image with several captions. Columns
    split and labels are used where they are there; without splits, images are dealt out 80/10/10.

    Raises
    ------
    UserError
        If a part is missing or parts don't fit together, or a row has a bad value; the message names file and row.
    """
    folder, out = Path(folder), Path(out)
    check_replaceable(out, overwrite=True)
    tables: list[Table] = []
    image_parts: list[Part] = []
    text_parts: list[Part] = []
    for image_file, text_file, metadata in _parts(folder):
        table = read_captions(metadata, ("image_path", "caption"))
        table.filled("image_path")
        table.filled("caption")
        tables.append(table)
        image_parts.append((image_file, open_array(image_file)))
        text_parts.append((text_file, open_array(text_file)))
        for path, emb in (image_parts[-1], text_parts[-1]):
            if len(emb) != len(table):
                raise UserError(f"{path} has {len(emb):,} rows, {metadata} has {len(table):,}. Make the folder again.")
    same_width(image_parts + text_parts)

    whole = _joined(folder, tables)
    names = whole["image_path"]
    rows = {image: i for i, image in enumerate(dict.fromkeys(names))}
    owner = [rows[image] for image in names]
    image_emb = normalised(image_parts)
    first = _first_rows(whole, image_emb, owner)
    if "split" in whole:
        splits = [split for table in tables for split in read_splits(table)]
        split_of = split_of_images(whole, names, splits)
    else:
        split_of = random_splits(list(rows), seed, str(folder))
        say(f"{folder}: no split column; {len(rows):,} images dealt out 80/10/10 (seed {seed})")
    labels = [value for table in tables for value in read_labels(table) or []] if "labels" in whole else None
    of_image = labels_of_images(whole, names, labels)
    made = EmbeddingSet(
        image_emb[first],
        normalised(text_parts),
        image_table(
            list(rows),
            list(rows),
            [split_of[image] for image in rows],
            [of_image[image] for image in rows] if labels else None,
        ),
        text_table(
            [str(row) for row in range(len(whole))], whole["caption"], [split_of[image] for image in names], labels
        ),
        relevance_table(owner),
        meta_of(out, name, "clip-retrieval"),
    )
    return written(made, out, overwrite, say)


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


def meta_of(out: Path, name: str | None, dataset: str) -> dict[str, Any]:
    """Say what is known; nobody knows which model made the arrays."""
    return {"name": name or out.name, "encoder": None, "pretrained": None, "weights_sha256": None, "dataset": dataset}


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


def _parts(folder: Path) -> list[tuple[Path, Path, Path]]:
    """Return image, text and metadata file of every part, in the order of their numbers."""
    layout = {"img_emb": ".npy", "text_emb": ".npy", "metadata": ".parquet"}
    found: dict[str, dict[int, Path]] = {}
    for kind, suffix in layout.items():
        found[kind] = {}
        for path in sorted((folder / kind).glob(f"{kind}_*{suffix}")):
            digits = path.stem.removeprefix(f"{kind}_")
            if digits.isdigit():
                found[kind][int(digits)] = path
    if not any(found.values()):
        raise UserError(
            f"{folder}: no clip-retrieval folder. It must hold img_emb/img_emb_0.npy, text_emb/text_emb_0.npy and "
            "metadata/metadata_0.parquet."
        )
    numbers = sorted(set().union(*found.values()))
    for number in numbers:
        for kind, suffix in layout.items():
            if number not in found[kind]:
                raise UserError(
                    f"{folder / kind}: no {kind}_{number}{suffix}, but other folders have part {number}. Run "
                    "clip-retrieval inference again, for images, texts and metadata."
                )
    return [(found["img_emb"][n], found["text_emb"][n], found["metadata"][n]) for n in numbers]


def _joined(folder: Path, tables: list[Table]) -> Table:
    columns = [name for name in ("image_path", "caption", "split", "labels") if any(name in table for table in tables)]
    for table in tables:
        table.require(columns)
    joined = {name: [value for table in tables for value in table[name]] for name in columns}
    return Table(folder / "metadata", joined, list(range(sum(map(len, tables)))), "row")


def _first_rows(table: Table, image_emb: np.ndarray, owner: list[int]) -> np.ndarray:
    """Return the first row of every image; its other rows must hold the same embedding."""
    _, first = np.unique(owner, return_index=True)
    for row, image in enumerate(owner):
        twin = int(first[image])
        if row != twin and image_emb[row].astype(np.float32) @ image_emb[twin].astype(np.float32) < 0.99:
            raise UserError(
                f"{table.at(row)}: image_path {table['image_path'][row]!r} stands in row {twin} too, with another "
                "embedding. Give different images different paths."
            )
    return first
