"""Embeddings from anywhere, as the rest of the package takes them."""

from __future__ import annotations

import numpy as np

_BLOCK = 16_384  # rows normalised at a time


def normalised(embeddings: np.ndarray, dim: int, what: str) -> np.ndarray:
    """Return embeddings (n, dim) as float16 of length 1.

    Raises
    ------
    ValueError
        If the shape is wrong, or a row is zero or not finite; it names `what`.
    """
    array = _shaped(embeddings, dim, what)
    result = np.empty(array.shape, dtype=np.float16)
    for start in range(0, len(array), _BLOCK):  # a corpus of millions must not stand in memory as float32
        block = np.asarray(array[start : start + _BLOCK], dtype=np.float32)
        norm = np.linalg.norm(block, axis=1, keepdims=True)
        bad = np.flatnonzero(~(np.isfinite(norm) & (norm > 0)))
        if len(bad):
            raise ValueError(f"{what}: row {start + bad[0]} is zero or not finite.")
        result[start : start + _BLOCK] = block / norm
    return result


def as_they_are(embeddings: np.ndarray, dim: int, what: str) -> np.ndarray:
    """Return features (n, dim) as float32, where sides are not aligned.

    Raises
    ------
    ValueError
        If the shape is wrong, or a row is not finite; it names `what`.
    """
    array = np.array(_shaped(embeddings, dim, what), dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise ValueError(f"{what}: row {bad[0]} is not finite.")
    return array


def _shaped(embeddings: np.ndarray, dim: int, what: str) -> np.ndarray:
    array = np.asarray(embeddings)
    if array.dtype.kind not in "fiubO":
        raise ValueError(f"{what} are of {array.dtype}: give numbers, (n, {dim}).")
    if array.ndim != 2 or array.shape[1] != dim:
        raise ValueError(f"{what} have shape {array.shape}; this ranker takes (n, {dim}).")
    return array
