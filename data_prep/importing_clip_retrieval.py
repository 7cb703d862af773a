"""Embedding sets from a folder that clip-retrieval made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.arrays import Part, normalised, open_array, same_width
from data_prep.datasets.corpus import image_table, relevance_table, text_table
from data_prep.datasets.labels import labels_of_images, read_labels
from data_prep.datasets.splits import read_splits
from data_prep.datasets.tables import Table, read_captions
from data_prep.encoder import Encoder
from data_prep.importing import corpus_of_images, known_words, meta_of, splits_of, written
from data_prep.importing_encoder import check_encoder, check_width
from data_prep.replace import check_replaceable
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError


def import_clip_retrieval(
    folder: Path | str,
    out: Path | str,
    name: str | None = None,
    *,
    encoder: Encoder | None = None,
    seed: int = 0,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> EmbeddingSet:
    """Write an embedding set from a folder that `clip-retrieval inference` made.

    It holds img_emb/img_emb_N.npy, text_emb/text_emb_N.npy and metadata/metadata_N.parquet with columns image_path and
    caption; row i of the three belong together. Rows with one image_path are one image with several captions. Columns
    split and labels are used where they are there; without splits, images are dealt out 80/10/10. A caption whose words
    are lost is shown as its row, "[17]". Without text_emb the images become a corpus to search in.

    Parameters
    ----------
    encoder : Encoder, optional
        What made the arrays, so that the set can be searched by new texts and images. Some items are encoded again.

    Raises
    ------
    UserError
        If a part is missing or parts don't fit together, a row has a bad value, or another encoder made the arrays; the
        message names file and row.
    """
    folder, out = Path(folder), Path(out)
    check_replaceable(out, overwrite=True)
    tables: list[Table] = []
    image_parts: list[Part] = []
    text_parts: list[Part] = []
    for image_file, text_file, metadata in _parts(folder):
        table = read_captions(metadata, ("image_path",))
        table.filled("image_path")
        tables.append(table)
        image_parts.append((image_file, open_array(image_file)))
        if text_file is not None:
            text_parts.append((text_file, open_array(text_file)))
        for path, emb in (image_parts[-1], *text_parts[-1:]):
            if len(emb) != len(table):
                raise UserError(f"{path} has {len(emb):,} rows, {metadata} has {len(table):,}. Make the folder again.")
    same_width(image_parts + text_parts)
    check_width(encoder, image_parts[0])

    whole = _joined(folder, tables)
    names = whole["image_path"]
    rows = {image: i for i, image in enumerate(dict.fromkeys(names))}
    owner = [rows[image] for image in names]
    image_emb = normalised(image_parts, out)
    image_emb = image_emb[_first_rows(whole, image_emb, owner)]
    meta = meta_of(out, name, "clip-retrieval", encoder)
    if not text_parts:
        say(f"{folder}: no text_emb, so its {len(rows):,} images become a corpus to search in, without captions")
        made, lost = corpus_of_images(image_emb, list(rows), list(rows), meta), np.zeros(0, dtype=bool)
    else:
        made, lost = _with_captions(whole, tables, image_emb, normalised(text_parts, out), rows, owner, meta, seed, say)
    check_encoder(encoder, made, lost, out, say)
    return written(made, out, overwrite, say)


def _with_captions(
    whole: Table,
    tables: list[Table],
    image_emb: np.ndarray,
    text_emb: np.ndarray,
    rows: dict[str, int],
    owner: list[int],
    meta: dict[str, Any],
    seed: int,
    say: Callable[[str], None],
) -> tuple[EmbeddingSet, np.ndarray]:
    """Return the set, and which captions' words are lost."""
    names = whole["image_path"]
    if "split" in whole:
        for table in tables:  # names the file and its row where a value is wrong
            read_splits(table)
    split_of = splits_of(whole, names, seed, say)
    labels = [value for table in tables for value in read_labels(table) or []] if "labels" in whole else None
    of_image = labels_of_images(whole, names, labels)
    ids = [str(row) for row in range(len(whole))]
    words, lost = known_words(whole, ids, say)
    made = EmbeddingSet(
        image_emb,
        text_emb,
        image_table(
            list(rows),
            list(rows),
            [split_of[image] for image in rows],
            [of_image[image] for image in rows] if labels else None,
        ),
        text_table(ids, words, [split_of[image] for image in names], labels),
        relevance_table(owner),
        {**meta, **({"captions_lost": int(lost.sum())} if lost.any() else {})},
    )
    return made, lost


def _parts(folder: Path) -> list[tuple[Path, Path | None, Path]]:
    """Return image, text and metadata file of every part, in the order of their numbers; no text where none has."""
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
    if not found["text_emb"]:
        del layout["text_emb"]
    numbers = sorted(set().union(*found.values()))
    for number in numbers:
        for kind, suffix in layout.items():
            if number not in found[kind]:
                raise UserError(
                    f"{folder / kind}: no {kind}_{number}{suffix}, but other folders have part {number}. Run "
                    "clip-retrieval inference again, for images, texts and metadata."
                )
    return [(found["img_emb"][n], found["text_emb"].get(n), found["metadata"][n]) for n in numbers]


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
