"""Tokens of an embedding set: the cells of each image and the words of each caption, beside their embeddings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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
    """Cells and words, float16, L2-normalised, memory-mapped.

    Attributes
    ----------
    image : ndarray (n_images, P, d)
        Cells in reading order.
    text : ndarray (W, d)
        The words of all captions, one after the other, without padding, start and end.
    offsets : ndarray (n_texts + 1,), int64
        Caption i has the words ``text[offsets[i] : offsets[i + 1]]``.
    facts : dict
        What meta.json says of them: tower, layer, path, grid, width, fingerprint.
    """

    image: np.ndarray
    text: np.ndarray
    offsets: np.ndarray
    facts: dict[str, Any]

    @property
    def longest(self) -> int:
        """Number of words of the longest caption."""
        return int(np.diff(self.offsets).max())

    def words(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the words of captions, padded with zeros, and where there are any: (n,) -> (n, T, d), bool (n, T)."""
        rows = np.asarray(rows)
        counts = self.offsets[rows + 1] - self.offsets[rows]
        inside = np.arange(int(counts.max(initial=0)))[None] < counts[:, None]
        found = np.zeros((*inside.shape, self.text.shape[1]), dtype=np.float16)
        found[inside] = self.text[np.concatenate([np.arange(self.offsets[r], self.offsets[r + 1]) for r in rows])]
        return found, inside

    @classmethod
    def open(cls, data: EmbeddingSet) -> Tokens:
        """Open the tokens of a set; the first time in a process they are compared with their fingerprint.

        Raises
        ------
        UserError
            If it has none, or they are broken or don't belong to it.
        """
        facts = data.meta.get(_KEY)
        if data.root is None or not isinstance(facts, dict):
            raise UserError(
                f"{data.root or data.name}: has no tokens. Make them with `rank-xmodal embed ... --tokens values`, or "
                "import them."
            )
        remedy = "Make the tokens again."
        image, text, offsets = (open_npy(data.root / name, remedy) for name in (IMAGE, TEXT, OFFSETS))
        found = cls(image, text, offsets, facts)
        found.check(data, str(data.root))

        def verify() -> None:
            if facts.get("fingerprint") != fingerprint_of(data, image, text, offsets):
                raise UserError(f"{data.root}: its tokens are damaged, or of other embeddings. {remedy}")

        check_once([data.root / name for name in ("meta.json", IMAGE, TEXT, OFFSETS)], verify)
        return found

    def check(self, data: EmbeddingSet, where: str) -> None:
        """Check that tokens fit a set.

        Raises
        ------
        UserError
            If their shapes or types are wrong, or a caption has no words.
        """
        if self.image.ndim != 3 or self.image.dtype != np.float16 or len(self.image) != len(data.images):
            raise UserError(
                f"{where}: {IMAGE} is {self.image.shape} {self.image.dtype}, expected ({len(data.images)}, cells, d) "
                "float16. Make the tokens again."
            )
        if self.text.ndim != 2 or self.text.dtype != np.float16 or self.text.shape[1] != self.image.shape[2]:
            raise UserError(
                f"{where}: {TEXT} is {self.text.shape} {self.text.dtype}, expected (words, {self.image.shape[2]}) "
                "float16. Make the tokens again."
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


def _check_units(rows: np.ndarray, where: str) -> None:
    off = off_unit(rows)
    if off is not None:
        raise UserError(f"{where}: token {off[0]} is of length {off[1]:.4f}, not 1. Normalise them.")


def fingerprint_of(data: EmbeddingSet, image: np.ndarray, text: np.ndarray, offsets: np.ndarray) -> str:
    """Return the SHA-256 of tokens and the fingerprint of the set that they belong to."""
    return sha256(data.fingerprint.encode(), image, text, offsets)


def write_tokens(
    data: EmbeddingSet, image: Iterable[np.ndarray], text: Iterable[np.ndarray], offsets: np.ndarray,
    shape: tuple[int, int, int], facts: dict[str, Any],
) -> EmbeddingSet:  # fmt: skip
    """Write tokens into a set's folder, block after block, and return the set opened again.

    They count once meta.json names them, which is written last.

    Parameters
    ----------
    data : EmbeddingSet
        One that was opened from its folder.
    image, text : iterable of ndarray (k, P, d) and (k, d), float16, L2-normalised
        Blocks, in the order of the rows.
    offsets : ndarray (n_texts + 1,), int64
    shape : (n_images, P, d)
    facts : dict
        What meta.json shall say of them.

    Raises
    ------
    UserError
        If they don't fit the set, a token is not of length 1, or the disk is full.
    """
    assert data.root is not None
    for name, blocks, whole in ((IMAGE, image, shape), (TEXT, text, (int(offsets[-1]), shape[2]))):
        with replacing(data.root / name) as part, part.open("wb") as handle:
            header = {"descr": "<f2", "fortran_order": False, "shape": tuple(map(int, whole))}
            np.lib.format.write_array_header_2_0(handle, header)
            for block in blocks:  # written, not mapped: a full disk is an error then, and no signal
                _check_units(block.reshape(-1, shape[2]), f"{data.root / name}")
                handle.write(np.ascontiguousarray(block, dtype="<f2").tobytes())
    with replacing(data.root / OFFSETS) as part, part.open("wb") as handle:
        np.save(handle, offsets.astype(np.int64))
    made = [open_npy(data.root / name, "Make the tokens again.") for name in (IMAGE, TEXT, OFFSETS)]
    Tokens(made[0], made[1], made[2], facts).check(data, str(data.root))
    meta = read_json(data.root / "meta.json")
    meta[_KEY] = {
        **facts,
        "cells": shape[1],
        "width": shape[2],
        "fingerprint": fingerprint_of(data, made[0], made[1], made[2]),
    }
    write_json(data.root / "meta.json", meta)
    return EmbeddingSet.open(data.root)
