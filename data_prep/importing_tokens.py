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
    """Add cells and words to a set, brought to length 1, and return it opened again.

    Parameters
    ----------
    data : EmbeddingSet
        One that was opened from its folder.
    image : .npy (n_images, P, d), any float type
        Row i belongs to image i.
    text : .npy (W, d), any float type
        The words of all captions, one after the other.
    offsets : .npy (n_texts + 1,), whole numbers
        Caption i has the words from offsets[i] to before offsets[i + 1].

    Raises
    ------
    UserError
        If an array is of another kind or shape, or a token is zero or not finite; the message names file and row.
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
    if cells.shape[2] != words.shape[1]:
        raise UserError(
            f"{image} is {cells.shape[2]} wide, {text} is {words.shape[1]} wide. Both must come from one model."
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
    facts = {"tower": "import", "layer": None, "path": None, "grid": None}
    shape = (len(cells), int(cells.shape[1]), int(cells.shape[2]))
    return write_tokens(data, _units(cells, image), _units(words, text), where, shape, facts)


def _units(array: np.ndarray, path: Path) -> Iterator[np.ndarray]:
    for start in range(0, len(array), _BLOCK):
        block = np.asarray(array[start : start + _BLOCK])
        rows, bad = unit_rows(block.reshape(-1, block.shape[-1]))
        if bad is not None:
            first, *others = np.unravel_index(bad[0], block.shape[:-1])
            place = ", ".join(map(str, [start + int(first), *map(int, others)]))
            raise UserError(f"{path}: the token in row {place} is zero or not finite. Make it again.")
        yield rows.reshape(block.shape).astype(np.float16)
