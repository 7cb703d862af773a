"""Embedding sets from a MATLAB file: features of two kinds and classes, as labelled corpora are handed around."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.arrays import plain
from data_prep.datasets.corpus import image_table, relevance_table, text_table
from data_prep.datasets.splits import random_splits
from data_prep.importing import meta_of, written
from data_prep.replace import check_replaceable
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError, did_you_mean, first_line

ROLES = ("images", "texts", "labels")
_LARGEST = 2**53  # whole numbers below it are exact in float64
# As the Wikipedia set and its kin have them (train, test), and as DCMH's MIRFlickr and NUS-WIDE do (all in one).
_KNOWN: tuple[dict[str, tuple[str, ...]], ...] = (
    {"images": ("I_tr", "I_te"), "texts": ("T_tr", "T_te"), "labels": ("L_tr", "L_te")},
    {"images": ("IAll",), "texts": ("YAll",), "labels": ("LAll",)},
    {"images": ("XAll",), "texts": ("YAll",), "labels": ("LAll",)},
)


def import_mat(
    path: Path | str,
    out: Path | str,
    name: str | None = None,
    *,
    variables: Mapping[str, Sequence[str]] | None = None,
    val: float = 0.0,
    seed: int = 0,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> EmbeddingSet:
    """Write an embedding set whose sides are not aligned, with classes, from a .mat file (MATLAB 5 to 7.2).

    Row i of the images belongs to row i of the texts. Features are kept as they are.

    Parameters
    ----------
    path : .mat
    out : Path
        The folder to be made.
    name : str, optional
        What tables call the set; the folder's name if not given.
    variables : role -> names, optional
        For each of images, texts and labels the variable of train and that of test, or one of all items, which are
        dealt out 80/10/10. Features are (n, d) numbers; labels (n,) class numbers or (n, C) zeros and ones. Found by
        the names that are in use if not given.
    val : float
        Share of train that becomes the split val, drawn by `seed`; where train and test are variables of their own.
    seed : int

    Raises
    ------
    UserError
        If the file can't be read, a variable is missing or of another shape, a value is not finite, or an item has no
        class; the message names file, variable and row.
    """
    path, out = Path(path), Path(out)
    check_replaceable(out, overwrite=True)
    if not 0 <= val < 1:
        raise UserError(f"val={val:g}: must be a share of train, from 0 to below 1.")
    found = _read(path, variables)
    parts = {role: [_numbers(path, name, array, role) for name, array in own] for role, own in found.items()}
    for part, (images, texts, labels) in enumerate(zip(*(parts[role] for role in ROLES), strict=True)):
        if not len(images) == len(texts) == len(labels):
            names = ", ".join(f"{found[role][part][0]} {len(parts[role][part]):,}" for role in ROLES)
            raise UserError(f"{path}: rows differ: {names}. Row i of each must belong to the same item.")
    for role in ROLES:
        if len(widths := {part.shape[1] for part in parts[role]}) > 1:
            names = ", ".join(f"{name} {part.shape}" for (name, _), part in zip(found[role], parts[role], strict=True))
            raise UserError(f"{path}: {role} of {len(widths)} widths: {names}. Train and test must be of one kind.")
    sizes = [len(part) for part in parts["images"]]
    splits = _splits(sizes, val, seed, str(path))
    classes = [name for (what, _), own in zip(found["labels"], parts["labels"], strict=True)
               for name in _classes(path, what, own)]  # fmt: skip
    rows = range(sum(sizes))
    made = EmbeddingSet(
        np.concatenate(parts["images"]),
        np.concatenate(parts["texts"]),
        image_table([str(row) for row in rows], [""] * len(rows), splits, classes),
        text_table([str(row) for row in rows], [f"text {row}" for row in rows], splits, classes),
        relevance_table(list(rows)),
        {**meta_of(out, name, "mat"), "aligned": False},
    )
    return written(made, out, overwrite, say)


def _read(path: Path, given: Mapping[str, Sequence[str]] | None) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Return for each role the variables, by name, and their values."""
    from scipy.io import loadmat, whosmat

    if not path.is_file():
        raise UserError(f"{path}: no such file. Name a .mat file.")
    try:
        there = {name: shape for name, shape, _ in whosmat(path)}
        wanted = _wanted(path, there, given)
        values = loadmat(path, variable_names=[name for names in wanted.values() for name in names])
    except NotImplementedError:
        raise UserError(f"{path}: is of MATLAB 7.3 (HDF5). Save it with `save -v7`, or as .npy arrays.") from None
    except UserError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # whatever its bytes suggest
        raise UserError(f"{path}: can't be read as a .mat file ({first_line(error)}). Bring it again.") from error
    return {role: [(name, values[name]) for name in names] for role, names in wanted.items()}


def _wanted(
    path: Path, there: Mapping[str, Any], given: Mapping[str, Sequence[str]] | None
) -> dict[str, tuple[str, ...]]:
    holds = f"It holds {', '.join(f'{name} {shape}' for name, shape in there.items()) or 'nothing'}"
    if given is None:
        for known in _KNOWN:
            if all(name in there for names in known.values() for name in names):
                return known
        raise UserError(
            f"{path}: which of its variables are what? {holds}. Say so: images=NAME,NAME texts=NAME,NAME "
            "labels=NAME,NAME (train, test), or one name each."
        )
    if missing := [role for role in ROLES if role not in given]:
        raise UserError(f"{path}: variables: {missing[0]} is not said. Give images, texts and labels.")
    counts = {len(given[role]) for role in ROLES}
    if len(counts) != 1 or not counts <= {1, 2}:
        raise UserError(f"{path}: variables: give each of images, texts and labels two names (train, test), or one.")
    for name in (name for role in ROLES for name in given[role]):
        if name not in there:
            raise UserError(f"{path}: has no variable {name!r}.{did_you_mean(name, there)} {holds}.")
    return {role: tuple(given[role]) for role in ROLES}


def _numbers(path: Path, name: str, array: np.ndarray, role: str) -> np.ndarray:
    """Return a variable as (n, d) float32, or (n, C) whole numbers of labels."""
    where = path.with_name(f"{path.name}: {name}")
    if hasattr(array, "toarray"):  # sparse, as bags of words are
        array = array.toarray()
    if array.ndim != 2 or array.dtype.kind not in "fiub" or not array.size:
        raise UserError(f"{where}: is {array.shape} {array.dtype}, expected numbers (items, d). Name another variable.")
    if role != "labels":
        return plain(where, array)
    array = array.T if array.shape[0] == 1 else array
    if not (np.abs(array) < _LARGEST).all() or (array != np.round(array)).any():  # false for NaN, too
        raise UserError(
            f"{where}: holds what is no class number. Give whole numbers, or zeros and ones for each class."
        )
    return array.astype(np.int64)


def _classes(path: Path, name: str, labels: np.ndarray) -> list[str]:
    """Return the classes of each item, "3" or "1|4": a number is its own name, a column counts from 1."""
    if labels.shape[1] == 1:
        return [str(value) for value in labels[:, 0]]
    if not np.isin(labels, (0, 1)).all():
        raise UserError(
            f"{path}: {name}: is {labels.shape}, and not all zeros and ones. Give one column of class numbers."
        )
    empty = np.flatnonzero(~labels.any(axis=1))
    if len(empty):
        raise UserError(f"{path}: {name}, row {empty[0]}: names no class. Leave the item out of all variables.")
    return ["|".join(sorted(str(at + 1) for at in np.flatnonzero(row))) for row in labels]


def _splits(sizes: list[int], val: float, seed: int, where: str) -> list[str]:
    if len(sizes) == 1:
        rows = [str(row) for row in range(sizes[0])]
        dealt = random_splits(rows, seed, where)
        return [dealt[row] for row in rows]
    train = np.full(sizes[0], "train", dtype=object)
    train[np.random.default_rng(seed).permutation(sizes[0])[: round(val * sizes[0])]] = "val"
    return [*train, *["test"] * sizes[1]]
