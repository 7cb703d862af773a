"""Embedding sets from MATLAB files: features of two kinds and classes, as labelled corpora are handed around."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_prep.arrays import plain
from data_prep.datasets.wikipedia import read_list
from data_prep.importing_features import Part, check_share, write_features
from data_prep.importing_variables import Variable, variables_of
from data_prep.replace import check_replaceable
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError, did_you_mean

ROLES = ("images", "texts", "labels")
_LARGEST = 2**53  # whole numbers below it are exact in float64
# As the Wikipedia set and its kin have them (train, test), and as DCMH's MIRFlickr and NUS-WIDE do (all in one; XAll
# are features, IAll mostly pictures).
_KNOWN: tuple[dict[str, tuple[str, ...]], ...] = (
    {"images": ("I_tr", "I_te"), "texts": ("T_tr", "T_te"), "labels": ("L_tr", "L_te")},
    {"images": ("XAll",), "texts": ("YAll",), "labels": ("LAll",)},
    {"images": ("IAll",), "texts": ("YAll",), "labels": ("LAll",)},
)


def import_mat(
    path: Path | str | Sequence[Path | str],
    out: Path | str,
    name: str | None = None,
    *,
    variables: Mapping[str, Sequence[str]] | None = None,
    labels: Sequence[Path | str] = (),
    val: float = 0.0,
    seed: int = 0,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> EmbeddingSet:
    """Write an embedding set whose sides are not aligned, with classes, from .mat files (MATLAB 5 to 7.3).

    Row i of the images belongs to row i of the texts. Features are kept as they are. Items without a class, or with a
    text of zeros alone, are left out and counted.

    Parameters
    ----------
    path : .mat, or several that hold a variable or more each
        Those of MATLAB 7.3 are HDF5, and take the package h5py.
    out : Path
        The folder to be made.
    name : str, optional
        What tables call the set; the folder's name if not given.
    variables : role -> names, optional
        For each of images, texts and labels the variable of train and that of test, or one of all items, which are
        dealt out 80/10/10. Features are (n, d) numbers; labels (n,) class numbers or (n, C) zeros and ones. Found by
        the names that are in use if not given.
    labels : files, optional
        The Wikipedia set's lists of train and test, in place of variables: each line ends in the number of a class.
    val : float
        Share of train that becomes the split val, drawn by `seed`; where train and test are variables of their own.
    seed : int

    Raises
    ------
    UserError
        If a file can't be read, a variable is missing or of another shape, or a value is not finite; the message names
        file, variable and row.
    """
    paths = [Path(path)] if isinstance(path, (str, Path)) else [Path(one) for one in path]
    out = Path(out)
    check_replaceable(out, overwrite=True)
    check_share(val)
    where = ", ".join(map(str, paths))
    roles = ROLES[:2] if labels else ROLES
    there = variables_of(paths)
    wanted = _wanted(where, roles, there, variables)
    images, texts = ([_features(there[name]) for name in wanted[role]] for role in ROLES[:2])
    if labels:
        if len(labels) != len(images):
            raise UserError(f"{where}: {len(images)} variables of images and {len(labels)} lists. Give one for each.")
        lists = [Path(one) for one in labels]
        names = {**wanted, "labels": [one.name for one in lists]}
        classes = [[str(number) for _, _, number in read_list(one)] for one in lists]
    else:
        names = {role: list(own) for role, own in wanted.items()}
        numbers = [(there[name], _class_numbers(there[name])) for name in wanted["labels"]]
        _same_width(where, "labels", wanted["labels"], [own for _, own in numbers])
        classes = [_classes(variable.where, own) for variable, own in numbers]
    for part, sizes in enumerate(zip(map(len, images), map(len, texts), map(len, classes), strict=True)):
        if len(set(sizes)) > 1:
            shown = ", ".join(f"{names[role][part]} {size:,}" for role, size in zip(ROLES, sizes, strict=True))
            raise UserError(f"{where}: rows differ: {shown}. Row i of each must belong to the same item.")
    for role, own in (("images", images), ("texts", texts)):
        _same_width(where, role, wanted[role], own)
    parts = [Part(*own) for own in zip(images, texts, classes, strict=True)]
    return write_features(parts, out, name, "mat", where, val=val, seed=seed, overwrite=overwrite, say=say)


def _wanted(
    where: str, roles: Sequence[str], there: Mapping[str, Variable], given: Mapping[str, Sequence[str]] | None
) -> dict[str, tuple[str, ...]]:
    """Return the names of each role's variables: one, or two of train and test."""
    shapes = ", ".join(f"{name} {variable.shape}" for name, variable in there.items())
    holds = f"It holds {shapes or 'nothing'}"
    if given is None:
        for known in _KNOWN:
            if all(name in there for role in roles for name in known[role]):
                return {role: known[role] for role in roles}
        lists = (
            " Where labels are in lists, as those of the Wikipedia set's raw_features.mat, give these with --labels."
            if "labels" in roles
            else ""
        )
        raise UserError(
            f"{where}: which of its variables are what? {holds}. Say so: "
            f"{' '.join(f'{role}=NAME,NAME' for role in roles)} (train, test), or one name each.{lists}"
        )
    if missing := [role for role in roles if role not in given]:
        raise UserError(f"{where}: variables: {missing[0]} is not said. Give {' and '.join(roles)}.")
    if extra := [role for role in given if role not in roles]:
        raise UserError(f"{where}: variables: {extra[0]} are given as files, too. Leave one out.")
    counts = {len(given[role]) for role in roles}
    if len(counts) != 1 or not counts <= {1, 2}:
        raise UserError(f"{where}: variables: give each of {' and '.join(roles)} two names (train, test), or one.")
    for name in (name for role in roles for name in given[role]):
        if name not in there:
            raise UserError(f"{where}: has no variable {name!r}.{did_you_mean(name, there)} {holds}.")
    return {role: tuple(given[role]) for role in roles}


def _features(variable: Variable) -> np.ndarray:
    """Return a variable as (n, d) float32."""
    return plain(variable.where, variable.matrix())


def _same_width(where: str, role: str, names: Sequence[str], own: Sequence[np.ndarray]) -> None:
    if len(widths := {array.shape[1] for array in own}) > 1:
        shown = ", ".join(f"{name} {array.shape}" for name, array in zip(names, own, strict=True))
        raise UserError(f"{where}: {role} of {len(widths)} widths: {shown}. Train and test must be of one kind.")


def _class_numbers(variable: Variable) -> np.ndarray:
    """Return labels as (n, C) whole numbers."""
    array = variable.matrix()
    array = array.T if array.shape[0] == 1 else array
    if not (np.abs(array) < _LARGEST).all() or (array != np.round(array)).any():  # false for NaN, too
        raise UserError(
            f"{variable.where}: holds what is no class number. Give whole numbers, or zeros and ones for each class."
        )
    return array.astype(np.int64)


def _classes(where: Path, labels: np.ndarray) -> list[str]:
    """Return the classes of each item, "3", "1|4" or "": a number is its own name, a column counts from 1."""
    if labels.shape[1] == 1:
        return [str(value) for value in labels[:, 0]]
    if not np.isin(labels, (0, 1)).all():
        raise UserError(f"{where}: is {labels.shape}, and not all zeros and ones. Give one column of class numbers.")
    return ["|".join(sorted(str(at + 1) for at in np.flatnonzero(row))) for row in labels]
