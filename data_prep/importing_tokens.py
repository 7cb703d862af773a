"""Tokens made elsewhere, into an embedding set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.arrays import unit_rows
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.tokens import write_tokens
from rank_xmodal.errors import UserError
from rank_xmodal.files import open_npy

_BLOCK = 256  # images or captions at a time


def import_tokens(data: EmbeddingSet, image: Path, text: Path, offsets: Path) -> EmbeddingSet:
    """Add cells and words to a set and return it opened again.

    Tokens of one width lie in one space and are brought to length 1. Where cells and words differ in width they are
    features of two towers, and kept as they are.

    Parameters
    ----------
    data : EmbeddingSet
        One that was opened from its folder.
    image : .npy (n_images, P, d_i), any float type
        Row i belongs to image i.
    text : .npy (W, d_t), any float type
        The words of all captions, one after the other.
    offsets : .npy (n_texts + 1,), whole numbers
        Caption i has the words from offsets[i] to before offsets[i + 1].

    Raises
    ------
    UserError
        If an array is of another kind or shape, or a token is not finite, is zero and should be of length 1, or is too
        large for float16 and should be kept; the message names file and row.
    """
    cells, words, ends = (open_npy(path, "Save it with np.save.") for path in (image, text, offsets))
    for path, array, what, axes in (
        (image, cells, "floats (images, cells, d)", 3),
        (text, words, "floats (words, d)", 2),
    ):
        if array.ndim != axes or array.dtype.kind != "f" or not array.size:
            raise UserError(f"{path}: is {array.shape} {array.dtype}, expected {what}. Save it with np.save.")
    if len(cells) != len(data.images):
        raise UserError(
            f"{image}: has {len(cells):,} rows, the set has {len(data.images):,} images. Give one for each."
        )
    if ends.ndim != 1 or ends.dtype.kind not in "iu" or len(ends) != len(data.texts) + 1:
        raise UserError(
            f"{offsets}: is {ends.shape} {ends.dtype}, expected {len(data.texts) + 1:,} whole numbers, one more than "
            "there are captions."
        )
    where = ends.astype(np.int64)
    if where[0] != 0 or where[-1] != len(words) or (np.diff(where) < 1).any():
        row = int(np.flatnonzero(np.diff(where) < 1)[0]) if (np.diff(where) < 1).any() else 0
        raise UserError(
            f"{offsets}: must rise from 0 to {len(words):,}, the words of {text}, with a word for each caption; see "
            f"row {row}."
        )
    shape = (len(cells), int(cells.shape[1]), int(cells.shape[2]), int(words.shape[1]))
    unit = shape[2] == shape[3]
    facts = {"tower": "import", "layer": None, "path": None, "grid": None, "normalised": unit}
    return write_tokens(data, _halves(cells, image, unit), _halves(words, text, unit), where, shape, facts)


def _halves(array: np.ndarray, path: Path, unit: bool) -> Iterator[np.ndarray]:
    """Yield blocks of an array in float16, each token of length 1 if `unit`."""
    for start in range(0, len(array), _BLOCK):
        block = np.asarray(array[start : start + _BLOCK])
        rows = block.reshape(-1, block.shape[-1])
        if unit:
            rows, wrong = unit_rows(rows)
            bad, what = (None if wrong is None else wrong[0]), "zero or not finite. Make it again"
        else:
            bad, what = _out_of_range(rows), "not finite in float16, which ends at 65,504. Make it again, or smaller"
        if bad is not None:
            first, *others = np.unravel_index(bad, block.shape[:-1])
            place = ", ".join(map(str, [start + int(first), *map(int, others)]))
            raise UserError(f"{path}: the token in row {place} is {what}.")
        yield rows.reshape(block.shape).astype(np.float16)


def _out_of_range(rows: np.ndarray) -> int | None:
    """Return the first row (n, d) that is not finite in float16; None where all are."""
    with np.errstate(over="ignore"):
        bad = np.flatnonzero(~np.isfinite(rows.astype(np.float16)).all(axis=1))
    return int(bad[0]) if len(bad) else None
