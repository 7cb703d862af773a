"""Unsupervised maps to vectors whose signs are binary codes: iterative quantisation and random hyperplanes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from typing_extensions import Self

from rank_xmodal.errors import UserError
from rank_xmodal.retrieval.hamming import MOST_BITS

_ROTATIONS = 50  # as in the paper


class Quantiser:
    """A shift and a linear map, ``(x - mean) weight``, whose signs are the code; the same for both sides of a `Space`.

    Parameters
    ----------
    mean : ndarray (d,), float32
    weight : ndarray (d, bits), float32
    """

    of_codes = True

    def __init__(self, mean: np.ndarray, weight: np.ndarray) -> None:
        self.mean, self.weight = mean, weight

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """Return (n, bits) float32 of (n, d) floating point embeddings.

        Raises
        ------
        ValueError
            If the width is not d.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != len(self.mean):
            raise ValueError(f"embeddings {embeddings.shape} must be (n, {len(self.mean)}), as the quantiser has it.")
        return (embeddings.astype(np.float32) - self.mean) @ self.weight

    map_queries = map_candidates = __call__

    @property
    def state(self) -> dict[str, np.ndarray]:
        """Return what `from_state` makes it of again."""
        return {"mean": self.mean, "weight": self.weight}

    @classmethod
    def from_state(cls, state: dict[str, np.ndarray]) -> Self:
        """Make one of what `state` gave."""
        return cls(state["mean"], state["weight"])


def itq(embeddings: np.ndarray, bits: int, seed: int = 0) -> Quantiser:
    """Fit iterative quantisation: principal components, rotated so that their signs lose least.

    Parameters
    ----------
    embeddings : ndarray (n, d), floating point; n at least `bits`
    bits : int, 1 to d
    seed : int
        Of the rotation that it starts from.

    Returns
    -------
    Quantiser

    Raises
    ------
    ValueError
        If `embeddings` is no such array.
    UserError
        If there are fewer rows or columns than bits, or a row is not finite.

    References
    ----------
    Gong and Lazebnik: Iterative Quantization: A Procrustean Approach to Learning Binary Codes, CVPR 2011.
    """
    if not isinstance(embeddings, np.ndarray) or embeddings.dtype.kind != "f" or embeddings.ndim != 2:
        raise ValueError("embeddings must be a NumPy array (n, d) of floating point numbers.")
    _check_bits(bits)
    if bits > (most := min(embeddings.shape)):
        raise UserError(
            f"bits={bits}: iterative quantisation of embeddings {embeddings.shape} has at most {most}; "
            "ask for fewer, or use lsh (rotation=lsh)."
        )
    rows = embeddings.astype(np.float64)
    mean = rows.mean(axis=0)
    if not np.isfinite(mean).all():
        row = int(np.flatnonzero(~np.isfinite(embeddings).all(axis=1))[0])
        raise UserError(f"embeddings holds NaN or infinity in row {row}: embed it again, or leave it out.")
    rows -= mean
    _, vectors = np.linalg.eigh(rows.T @ rows)  # ascending
    components = vectors[:, : -bits - 1 : -1]
    rotation = np.eye(bits)
    for rotation, _ in rotations(rows @ components, seed):  # noqa: B007
        pass
    return Quantiser(mean.astype(np.float32), (components @ rotation).astype(np.float32))


def rotations(rows: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, float]]:
    """Yield fifty rotations R of centred rows V, and the error |B - V R|^2 of each, B the signs before it.

    B is the best for the rotation before, and R the best for B: with the singular value decomposition
    ``V' B = S D T'`` it is ``S T'`` (orthogonal Procrustes), and its error |B|^2 + |V|^2 - 2 tr D. So no error is above
    the one before.

    Parameters
    ----------
    rows : ndarray (n, bits), float64
    seed : int

    Yields
    ------
    ndarray (bits, bits), float64, orthogonal; and its error
    """
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(rows.shape[1],) * 2))
    constant = rows.size + np.square(rows).sum()
    for _ in range(_ROTATIONS):
        signs = np.where(rows @ rotation >= 0, 1.0, -1.0)
        left, singular, right = np.linalg.svd(rows.T @ signs)
        rotation = left @ right
        yield rotation, float(constant - 2 * singular.sum())


def lsh(dim: int, bits: int, seed: int = 0) -> Quantiser:
    """Draw random hyperplanes through 0: two codes differ in a bit with probability angle / pi.

    Parameters
    ----------
    dim : int
        Width of the embeddings.
    bits : int, 1 to 4,096
    seed : int

    Returns
    -------
    Quantiser

    Raises
    ------
    UserError
        If `dim` or `bits` is out of range.

    References
    ----------
    Charikar: Similarity Estimation Techniques from Rounding Algorithms, STOC 2002.
    """
    if dim < 1:
        raise UserError(f"dim={dim}: embeddings have at least one number.")
    _check_bits(bits)
    weight = np.random.default_rng(seed).normal(size=(dim, bits)).astype(np.float32)
    return Quantiser(np.zeros(dim, dtype=np.float32), weight)


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= MOST_BITS:
        raise UserError(f"bits={bits}: a code has 1 to {MOST_BITS} bits, usually 16 to 128.")
