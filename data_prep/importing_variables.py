"""Variables of MATLAB files, of MATLAB 5 to 7.2 and of 7.3 (HDF5): what they are is known before anything is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.importing_matlab5 import check_types
from rank_xmodal.errors import UserError, first_line
from rank_xmodal.files.reading import unreadable

_HDF5 = b"\x89HDF\r\n\x1a\n"
_NUMBERS = ("double", "single", "logical", "sparse", *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)))
_MOST = 1 << 31  # values of one variable, 8 GB in float32; the 5,018 tags of NUS-WIDE are 1.4 billion
_DENSEST = 1100  # bytes that a compressed one can stand for: deflate has at most 1,032


@dataclass(frozen=True)
class Variable:
    """A variable of a file, not yet read.

    Attributes
    ----------
    shape : tuple of int
        As MATLAB has it.
    kind : str
        MATLAB's class, or why it is none that can be read.
    stored : int
        Bytes that it has in the file, at most; of a sparse one 0, for what it stands for is not bounded by them.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    kind: str
    stored: int
    load: Callable[[], Any]

    @property
    def where(self) -> Path:
        """Return what begins a message about it."""
        return Path(f"{self.path}: {self.name}")

    def matrix(self) -> np.ndarray:
        """Read it, (n, d) of the numbers' own type; a sparse one float32.

        Raises
        ------
        UserError
            If it is no matrix of numbers, or its header asks for more than the file can hold.
        """
        expected = "expected numbers (items, d). Name another variable."
        if len(self.shape) == 4:
            expected = "pictures and not features. Take the file of their features (XAll), or embed the image files."
        if len(self.shape) != 2 or self.kind not in _NUMBERS or min(self.shape) < 1:
            raise UserError(f"{self.where}: is {self.shape} {self.kind}, {expected}")
        values = math.prod(self.shape)
        if values > _MOST:
            raise UserError(f"{self.where}: is {self.shape}, and {_MOST:,} values are the most that are read. Cut it.")
        if self.kind != "sparse" and values > _DENSEST * self.stored:
            raise UserError(
                f"{self.where}: its header says {self.shape}, but the file has only {self.stored:,} bytes for it. "
                "Bring the file again."
            )
        array = _guarded(self.path, self.load)
        if hasattr(array, "tocsc"):
            array = _guarded(self.path, lambda: _dense(array))
        if array.shape != self.shape or array.dtype.kind not in "fiub":
            raise UserError(f"{self.where}: is {array.shape} {array.dtype}, {expected}")
        return np.asarray(array)


def variables_of(paths: Sequence[Path]) -> dict[str, Variable]:
    """Return all variables of some files, by their names.

    Raises
    ------
    UserError
        If a file can't be read, takes a package that is not installed, or two files have a variable of one name.
    """
    found: dict[str, Variable] = {}
    for path in paths:
        for variable in _open(path):
            if variable.name in found:
                raise UserError(
                    f"{path}: has a variable {variable.name!r}, and so has {found[variable.name].path}. Import them "
                    "one at a time, or rename one."
                )
            found[variable.name] = variable
    return found


def _open(path: Path) -> list[Variable]:
    if not path.is_file():
        raise UserError(f"{path}: no such file. Name a .mat file.")
    try:
        with path.open("rb") as handle:
            head = handle.read(1024)
    except OSError as error:
        raise unreadable(path, error) from error
    if head.startswith((b"MATLAB 7.3", _HDF5)) or head[512:].startswith(_HDF5):
        return _guarded(path, lambda: _of_hdf5(path))
    return _guarded(path, lambda: _of_matlab5(path))


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    """Call what reads a file, and say so where its bytes make no sense."""
    try:
        return read()
    except (UserError, MemoryError):
        raise
    except Exception as error:  # whatever its bytes suggest
        raise UserError(f"{path}: can't be read as a .mat file ({first_line(error)}). Bring it again.") from error


def _of_matlab5(path: Path) -> list[Variable]:
    from scipy.io import loadmat, whosmat

    def reader(name: str) -> Callable[[], Any]:
        return lambda: loadmat(path, variable_names=[name])[name]

    check_types(path)
    size = path.stat().st_size
    return [
        Variable(path, name, tuple(map(int, shape)), kind, size, reader(name)) for name, shape, kind in whosmat(path)
    ]


def _of_hdf5(path: Path) -> list[Variable]:
    try:
        import h5py
    except ImportError:
        raise UserError(
            f"{path}: is of MATLAB 7.3 (HDF5), which takes the package h5py. Install it "
            "(`pip install 'rank-xmodal[hdf5]'`), or save the file with `save -v7`."
        ) from None
    with h5py.File(path, "r") as file:
        return [_hdf5_variable(path, file, name) for name in file if not name.startswith("#")]


def _hdf5_variable(path: Path, file: Any, name: str) -> Variable:
    import h5py

    def unfit(why: str) -> Variable:
        return Variable(path, name, (), why, 0, lambda: None)

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return unfit("a link, which may lead into other files")
    held = file[name]
    if isinstance(held, h5py.Group):
        shape = _sparse_shape(held)
        if shape is None:
            return unfit("struct")
        return Variable(path, name, shape, "sparse", 0, lambda: _read_hdf5(path, name, _sparse))
    if not isinstance(held, h5py.Dataset) or _elsewhere(held):
        return unfit("a value in other files")
    if "MATLAB_empty" in held.attrs or held.shape is None:
        return unfit("empty")
    shape = tuple(held.shape)
    # MATLAB writes columns first, so HDF5 has its axes the other way round; files of other programs are as they say.
    shape = shape[::-1] if "MATLAB_class" in held.attrs else (*shape, 1) if len(shape) == 1 else shape
    kind = {"f4": "single", "f8": "double"}.get(held.dtype.str[1:], held.dtype.name)
    kind = "logical" if held.dtype.kind == "b" else "single" if held.dtype == np.float16 else kind
    return Variable(path, name, shape, kind, _stored(path, held), lambda: _read_hdf5(path, name, _array))


def _read_hdf5(path: Path, name: str, read: Callable[[Any], Any]) -> Any:
    import h5py

    with h5py.File(path, "r") as file:
        return read(file[name])


def _array(dataset: Any) -> np.ndarray:
    array: np.ndarray = dataset[()]
    return array.T if "MATLAB_class" in dataset.attrs else array.reshape(len(array), -1)


def _sparse_shape(group: Any) -> tuple[int, int] | None:
    """Return the shape of a sparse matrix as MATLAB 7.3 has it: its height is an attribute, its width that of `jc`."""
    import h5py

    if "MATLAB_sparse" not in group.attrs or group.attrs.get_id("MATLAB_sparse").shape not in ((), (1,)):
        return None
    for part in ("data", "ir", "jc"):  # a matrix of zeros has neither `data` nor `ir`, and no use
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            return None
        held = group[part]
        if not isinstance(held, h5py.Dataset) or _elsewhere(held) or len(held.shape) != 1:
            return None
        if held.size > _MOST or held.nbytes > _DENSEST * _stored(Path(group.file.filename), held):
            return None
    return int(np.ravel(group.attrs["MATLAB_sparse"])[0]), len(group["jc"]) - 1


def _sparse(group: Any) -> Any:
    from scipy.sparse import csc_matrix

    held = [group[part][()] for part in ("data", "ir", "jc")]
    return csc_matrix((held[0], *(rows.astype(np.int64) for rows in held[1:])), shape=_sparse_shape(group))


def _elsewhere(dataset: Any) -> bool:
    return dataset.is_virtual or dataset.external is not None


def _stored(path: Path, dataset: Any) -> int:
    """Return how many bytes a dataset has in its file; none where one of its chunks claims more than that."""
    stored = min(dataset.id.get_storage_size(), path.stat().st_size)
    chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    return 0 if chunk > _DENSEST * stored else stored


def _dense(matrix: Any) -> np.ndarray:
    """Return a sparse matrix as float32; its indices are checked first, for scipy would write wherever they point."""
    if matrix.dtype.kind not in "fiub":
        raise ValueError(f"a sparse matrix of {matrix.dtype}")
    if hasattr(matrix, "check_format"):  # MATLAB 4's are triples, whose indices are checked when they are made
        matrix.check_format(full_check=True)
    with np.errstate(over="ignore"):
        dense: np.ndarray = matrix.astype(np.float32).toarray()
    return dense
