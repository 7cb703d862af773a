"""Tokens of an embedding set: the cells of each image and the words of each caption, beside their embeddings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rank_xmodal.data.checks import off_unit
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.files import check_once, open_npy, read_json, replacing, sha256, write_json

IMAGE, TEXT, OFFSETS = "image_tokens.npy", "text_tokens.npy", "text_offsets.npy"
_KEY = "tokens"


@dataclass(frozen=True)
class Tokens:
    """Cells and words, float16, memory-mapped.

    Attributes
    ----------
    image : ndarray (n_images, P, d_i)
        Cells in reading order.
    text : ndarray (W, d_t)
        The words of all captions, one after the other, without padding, start and end.
    offsets : ndarray (n_texts + 1,), int64
        Caption i has the words ``text[offsets[i] : offsets[i + 1]]``.
    facts : dict
        What meta.json says of them: tower, layer, path, grid, normalised, cells, image_width, text_width, fingerprint.
        Older sets have one width, and don't say that theirs are normalised.
    """

    image: np.ndarray
    text: np.ndarray
    offsets: np.ndarray
    facts: dict[str, Any]

    @property
    def normalised(self) -> bool:
        """Whether each token is of length 1; others are as the encoder left them, at any length."""
        return bool(self.facts.get("normalised", True))

    @property
    def dims(self) -> tuple[int, int]:
        """Width of a cell and of a word."""
        return int(self.image.shape[2]), int(self.text.shape[1])

    @property
    def cells(self) -> int:
        """Number of cells of an image."""
        return int(self.image.shape[1])

    @classmethod
    def open(cls, data: EmbeddingSet) -> Tokens:
        """Open the tokens of a set; the first time in a process they are compared with their fingerprint.

        Of a part of a set, such as an inner fold, these are the tokens of the whole: its rows are the same.

        Raises
        ------
        UserError
            If it has none, or they are broken or don't belong to it.
        """
        data = data.whole
        facts = data.meta.get(_KEY)
        if data.root is None or not isinstance(facts, dict):
            raise UserError(
                f"{data.root or data.name}: has no tokens. Make them with `rank-xmodal embed ... --tokens features` or "
                "`--tokens values`, or import them."
            )
        remedy = "Make the tokens again."
        root = data.root

        def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            return open_npy(root / IMAGE, remedy), open_npy(root / TEXT, remedy), open_npy(root / OFFSETS, remedy)

        found = cls(*arrays(), facts)
        found.check(data, str(root))

        def verify() -> None:
            # By a mapping of its own: the pages that were read leave memory with it.
            if facts.get("fingerprint") != fingerprint_of(data, *arrays()):
                raise UserError(f"{data.root}: its tokens are damaged, or of other embeddings. {remedy}")

        check_once([data.root / name for name in ("meta.json", IMAGE, TEXT, OFFSETS)], verify)
        return found

    def check(self, data: EmbeddingSet, where: str) -> None:
        """Check that tokens fit a set.

        Raises
        ------
        UserError
            If their shapes or types are wrong, they are not as wide as their facts say, or a caption has no words.
        """
        if self.image.ndim != 3 or self.image.dtype != np.float16 or len(self.image) != len(data.images):
            raise UserError(
                f"{where}: {IMAGE} is {self.image.shape} {self.image.dtype}, expected ({len(data.images)}, cells, "
                "width) float16. Make the tokens again."
            )
        if self.text.ndim != 2 or self.text.dtype != np.float16:
            raise UserError(
                f"{where}: {TEXT} is {self.text.shape} {self.text.dtype}, expected (words, width) float16. Make the "
                "tokens again."
            )
        both = self.facts.get("width")  # what older sets say
        told = (self.facts.get("image_width", both), self.facts.get("text_width", both))
        if self.dims != told:
            raise UserError(
                f"{where}: {IMAGE} and {TEXT} are {self.dims[0]} and {self.dims[1]} wide, meta.json says {told[0]} and "
                f"{told[1]}. Make the tokens again."
            )
        ends = self.offsets
        if ends.shape != (len(data.texts) + 1,) or ends.dtype != np.int64 or ends[0] != 0 or ends[-1] != len(self.text):
            raise UserError(
                f"{where}: {OFFSETS} must hold {len(data.texts) + 1} whole numbers (int64) from 0 to {len(self.text)}. "
                "Make the tokens again."
            )
        empty = np.flatnonzero(np.diff(ends) < 1)
        if len(empty):
            name = data.texts["text_id"].iloc[empty[0]]
            raise UserError(f"{where}: caption {name!r} (row {empty[0]}) has no words. Leave it out.")


def _check_rows(rows: np.ndarray, normalised: bool, first: int, where: str) -> None:
    """Check that tokens (k, d) are finite, and of length 1 where they should be; `first` is the number of the first."""
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise UserError(f"{where}: token {first + bad[0]} is not finite in float16. Make the tokens again.")
    off = off_unit(rows) if normalised else None
    if off is not None:
        raise UserError(f"{where}: token {first + off[0]} is of length {off[1]:.4f}, not 1. Normalise them.")


def fingerprint_of(data: EmbeddingSet, image: np.ndarray, text: np.ndarray, offsets: np.ndarray) -> str:
    """Return the SHA-256 of tokens and the fingerprint of the set that they belong to."""
    return sha256(data.fingerprint.encode(), image, text, offsets)


def write_tokens(
    data: EmbeddingSet, image: Iterable[np.ndarray], text: Iterable[np.ndarray], offsets: np.ndarray,
    shape: tuple[int, int, int, int], facts: dict[str, Any],
) -> EmbeddingSet:  # fmt: skip
    """Write tokens into a set's folder, block after block, and return the set opened again.

    They count once meta.json names them, which is written last. Others that stood there are replaced.

    Parameters
    ----------
    data : EmbeddingSet
        One that was opened from its folder.
    image, text : iterable of ndarray (k, P, d_i) and (k, d_t), float16
        Blocks, in the order of the rows. L2-normalised, unless `facts` says ``"normalised": False``.
    offsets : ndarray (n_texts + 1,), int64
    shape : (n_images, P, d_i, d_t)
    facts : dict
        What meta.json shall say of them, beside normalised, cells, both widths and the fingerprint.

    Raises
    ------
    UserError
        If they don't fit the set, a token is not finite or not of length 1, or the disk is full.
    """
    assert data.root is not None
    count, cells, *widths = map(int, shape)
    facts = {"normalised": True, **facts, "cells": cells, "image_width": widths[0], "text_width": widths[1]}
    for name, blocks, whole in (
        (IMAGE, image, (count, cells, widths[0])),
        (TEXT, text, (int(offsets[-1]), widths[1])),
    ):
        with replacing(data.root / name) as part, part.open("wb") as handle:
            header = {"descr": "<f2", "fortran_order": False, "shape": whole}
            np.lib.format.write_array_header_2_0(handle, header)
            first = 0
            for block in blocks:  # written, not mapped: a full disk is an error then, and no signal
                rows = np.ascontiguousarray(block, dtype="<f2").reshape(-1, whole[-1])
                _check_rows(rows, facts["normalised"], first, f"{data.root / name}")
                handle.write(rows.tobytes())
                first += len(rows)
            _forget(data.root)
    with replacing(data.root / OFFSETS) as part, part.open("wb") as handle:
        np.save(handle, offsets.astype(np.int64))
    made = [open_npy(data.root / name, "Make the tokens again.") for name in (IMAGE, TEXT, OFFSETS)]
    Tokens(made[0], made[1], made[2], facts).check(data, str(data.root))
    meta = read_json(data.root / "meta.json")
    meta[_KEY] = {**facts, "fingerprint": fingerprint_of(data, made[0], made[1], made[2])}
    write_json(data.root / "meta.json", meta)
    return EmbeddingSet.open(data.root)


def _forget(root: Path) -> None:
    """Let meta.json name no tokens: while others take their place they would be told damaged, or already there."""
    meta = read_json(root / "meta.json")
    if meta.pop(_KEY, None) is not None:
        write_json(root / "meta.json", meta)
