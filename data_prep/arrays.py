"""Reading and normalising .npy matrices that somebody else wrote."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rank_xmodal.errors import UserError
from rank_xmodal.files import open_npy, telling

_BLOCK = 16_384  # rows normalised at a time
Part = tuple[Path, np.ndarray]


def open_array(path: Path) -> np.ndarray:
    """Open a (n, d) .npy of any float type, memory-mapped.

    Raises
    ------
    UserError
        If the file is missing, broken, pickled, empty, or no float matrix.
    """
    array = open_npy(path, "Save it with np.save, as float numbers.")
    if array.ndim != 2 or array.dtype.kind != "f":
        raise UserError(
            f"{path}: expected one (n, d) array of floats, found {array.shape} {array.dtype}. Save it with np.save."
        )
    if not array.size:
        raise UserError(f"{path}: the array is empty, {array.shape}.")
    return array


def same_width(parts: Sequence[Part]) -> None:
    """Check that all matrices are equally wide.

    Raises
    ------
    UserError
        If two are not.
    """
    path, first = parts[0]
    for other, array in parts[1:]:
        if array.shape[1] != first.shape[1]:
            raise UserError(
                f"{path} is {first.shape[1]} wide, {other} is {array.shape[1]} wide. Both must come from one model; "
                "features of two kinds are imported with --unaligned."
            )


def normalised(parts: Sequence[Part], beside: Path) -> np.ndarray:
    """Return the rows of all parts, one after the other, brought to length 1: (n, d) float16, memory-mapped.

    They lie in a file without a name in the folder of `beside`, gone with the array: memory bounds nothing.

    Raises
    ------
    UserError
        If a row is zero or not finite, or the disk is full.
    """
    shape = sum(len(array) for _, array in parts), parts[0][1].shape[1]
    folder = next(folder for folder in beside.absolute().parents if folder.is_dir())
    with telling(folder), tempfile.TemporaryFile(dir=folder) as out:
        for path, array in parts:
            for start in range(0, len(array), _BLOCK):
                block, bad = unit_rows(np.asarray(array[start : start + _BLOCK]))
                if bad is not None:
                    row, kind = bad
                    raise UserError(
                        f"{path}, row {start + row}: the embedding is {kind}. Embed that item again or leave it out."
                    )
                out.write(block.astype(np.float16).tobytes())
        out.flush()
        return np.memmap(out, dtype=np.float16, mode="r", shape=shape)


def plain(path: Path, array: np.ndarray) -> np.ndarray:
    """Return features as they are, (n, d) float32.

    Raises
    ------
    UserError
        If a value is not finite in float32; names the row.
    """
    with np.errstate(over="ignore"):
        found = np.asarray(array, dtype=np.float32)
    for start in range(0, len(found), _BLOCK):
        bad = np.flatnonzero(~np.isfinite(found[start : start + _BLOCK]).all(axis=1))
        if len(bad):
            row = start + bad[0]
            raise UserError(f"{path}, row {row}: holds NaN or infinity. Make that item again or leave it out.")
    return found


def unit_rows(block: np.ndarray) -> tuple[np.ndarray, tuple[int, str] | None]:
    """Return rows (n, d) of any float type brought to length 1, and the first that can't be: its row and what it is."""
    # In float32 at least, and scaled first: squares of large or tiny numbers leave the range.
    block = block.astype(np.float32 if block.dtype.itemsize <= 4 else np.float64)
    largest = np.abs(block).max(axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(largest[:, 0]) | (largest[:, 0] == 0))
    if len(bad):
        return block, (int(bad[0]), "zero" if largest[bad[0], 0] == 0 else "NaN or infinite")
    block /= largest
    block /= np.sqrt(np.einsum("nd,nd->n", block, block))[:, None]
    return block, None
