"""Does an embedding set fit together? Every message names the folder, the row and the remedy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rank_xmodal.errors import UserError

if TYPE_CHECKING:  # a set checks itself by these
    from rank_xmodal.data.embedding_set import EmbeddingSet

SPLITS = ("train", "val", "test")
LABELS = "labels"  # an optional column of images and texts: the classes of an item


def classes_of(labels: str) -> tuple[str, ...]:
    """Return the classes that a `labels` value names: "cat|dog" is two, "" none."""
    return tuple(labels.split("|")) if labels else ()


def check_labels(data: EmbeddingSet, where: str) -> None:
    """Check that a labelled set has a class for each item of train, val and test."""
    tables = {"image": data.images, "text": data.texts}
    having = [side for side, table in tables.items() if LABELS in table]
    if len(having) == 1:
        other = "text" if having == ["image"] else "image"
        raise UserError(
            f"{where}: {having[0]}s.parquet has a column 'labels', {other}s.parquet has none. Label both, or neither."
        )
    for side in having:
        table = tables[side]
        used = table["split"].isin(SPLITS).to_numpy()
        labels = table[LABELS].to_numpy(dtype=object)
        bad = (row for row, v in enumerate(labels) if not _good_labels(v) and (used[row] or v != ""))
        if (row := next(bad, None)) is not None:
            raise UserError(
                f"{where}: {side} row {row} ({side}_id {table[f'{side}_id'].iloc[row]!r}) has the labels "
                f"{labels[row]!r}. Name its class, or several as 'a|b'; or drop the column from both tables."
            )


def _good_labels(value: object) -> bool:
    return isinstance(value, str) and value != "" and all(name and name == name.strip() for name in classes_of(value))


def check_common_space(data: EmbeddingSet) -> None:
    """Check that images and texts can be compared by their cosine.

    Raises
    ------
    UserError
        If they are features of two kinds.
    """
    if not data.aligned:
        raise UserError(
            f"{data.root or data.name}: its images and texts lie in no common space, so no cosine finds candidates. "
            "Train a scorer that maps both into one, as cca and linear do: its own space is the first stage."
        )


def check_captions(data: EmbeddingSet) -> None:
    """Check that a set has captions, without which nobody asks and an image finds nothing.

    Raises
    ------
    UserError
        If it holds images alone.
    """
    if not len(data.texts):
        raise UserError(
            f"{data.root or data.name}: holds images without captions. It can be searched by text; there is nothing to "
            "train on, to mine, to evaluate or for an image to find. For that, make the set again with captions: a "
            "captions.csv (columns image, caption) in the folder of the images, or import's --texts and --captions."
        )


def check_shapes(data: EmbeddingSet, where: str) -> None:
    """Check that tables are as long as their embeddings, both sides as wide, and relevance within them."""
    for side, emb, table in (("image", data.image_emb, data.images), ("text", data.text_emb, data.texts)):
        if len(emb) != len(table):
            raise UserError(f"{where}: {len(emb)} {side} embeddings but {len(table)} rows in {side}s.parquet.")
    if data.aligned and data.image_emb.shape[1] != data.text_emb.shape[1]:
        raise UserError(
            f"{where}: images are {data.image_emb.shape[1]} wide, texts {data.text_emb.shape[1]}. "
            "Both must come from the same model; features of two kinds are imported with --unaligned."
        )
    for side, count in (("image", len(data.images)), ("text", len(data.texts))):
        rows = data.relevance[side].to_numpy()
        bad = np.flatnonzero((rows < 0) | (rows >= count))
        if len(bad):
            raise UserError(
                f"{where}: relevance row {bad[0]} names {side} row {rows[bad[0]]}, but there are {count} {side}s."
            )


def _check_words(column: pd.Series[Any], where: str) -> None:
    """Check that a column has no gap, and can be written as UTF-8."""
    gaps = np.flatnonzero(column.isna().to_numpy())
    if len(gaps):
        raise UserError(f"{where}: row {gaps[0]} has no value. Give it one or delete the row.")
    values = column.tolist()
    try:
        "".join(map(str, values)).encode()
    except UnicodeEncodeError:
        row = next(row for row, value in enumerate(values) if re.search("[\ud800-\udfff]", str(value)))
        raise UserError(
            f"{where}: row {row} holds {str(values[row])[:50]!r}, which is no Unicode text. Mend it or delete the row."
        ) from None


def off_unit(rows: np.ndarray) -> tuple[int, float] | None:
    """Return the first row (n, d) that is no unit vector in float16, and its length; None where all are."""
    for start in range(0, len(rows), 65_536):
        block = np.asarray(rows[start : start + 65_536], dtype=np.float32)
        norm = np.sqrt(np.einsum("nd,nd->n", block, block))
        # fp16 rows of a unit vector: each entry is off by 2^-11 of itself, so the norm by no more than that.
        bad = np.flatnonzero(~(np.abs(norm - 1) < 2e-3))
        if len(bad):
            return start + int(bad[0]), float(norm[bad[0]])
    return None


def _not_finite(rows: np.ndarray) -> tuple[int, float] | None:
    """Return the first row (n, d) with a value that is not finite, and NaN; None where there is none."""
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    return (int(bad[0]), float("nan")) if len(bad) else None


def check(data: EmbeddingSet, where: str) -> None:
    """Check everything that a set must have before it is written, see `EmbeddingSet.write`."""
    check_shapes(data, where)
    check_labels(data, where)
    if not len(data.images):
        raise UserError(f"{where}: there are no images.")
    for side, emb, table in (("image", data.image_emb, data.images), ("text", data.text_emb, data.texts)):
        for column in (f"{side}_id", "split", *(["text"] if side == "text" else [])):
            _check_words(table[column], f"{where}: {side}s.{column}")
        ids = table[f"{side}_id"].astype(str)
        if ids.duplicated().any():
            row = int(np.flatnonzero(ids.duplicated().to_numpy())[0])
            first = int(np.flatnonzero((ids == ids.iloc[row]).to_numpy())[0])
            raise UserError(
                f"{where}: {side}_id {ids.iloc[row]!r} stands in rows {first} and {row}. Ids must be unique."
            )
        off = off_unit(emb) if data.aligned else _not_finite(emb)
        if off is not None:
            row, value = off
            kind = "NaN or infinite" if not np.isfinite(value) else "zero" if value == 0 else f"of length {value:.4f}"
            raise UserError(
                f"{where}: the {side} embedding in row {row} ({side}_id {ids.iloc[row]!r}) is {kind}; it must be "
                f"finite{' and of length 1' * data.aligned}. Embed that item again or leave it out."
            )
    texts = data.texts["text"].astype(str)
    empty = np.flatnonzero((texts.str.strip() == "").to_numpy())
    if len(empty):
        raise UserError(
            f"{where}: text row {empty[0]} (text_id {data.texts['text_id'].iloc[empty[0]]!r}) is an empty caption. "
            "Write one or delete the row."
        )
    pairs = data.relevance[["image", "text"]]
    if pairs.duplicated().any():
        row = int(np.flatnonzero(pairs.duplicated().to_numpy())[0])
        raise UserError(f"{where}: relevance row {row} repeats the pair {tuple(map(int, pairs.iloc[row]))}.")
    grades = data.relevance["grade"].to_numpy()
    if not len(pairs) and len(texts):  # images alone are a corpus to search in
        raise UserError(f"{where}: no caption belongs to any image. Relevance needs at least one pair.")
    wrong = np.flatnonzero((grades < 1) | (grades > 127))  # labels in lists are int8
    if len(wrong):
        raise UserError(f"{where}: relevance row {wrong[0]} has the grade {grades[wrong[0]]}; use 1 to 127.")
