"""MATLAB 7.3 files, which are HDF5: made with h5py as MATLAB writes them."""

import sys
import tracemalloc

import numpy as np
import pytest
from scipy.sparse import csc_matrix

from data_prep.importing_mat import import_mat
from rank_xmodal.errors import UserError

HEADER = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"


def values():
    rng = np.random.default_rng(0)
    return {"XAll": rng.normal(size=(20, 4)), "YAll": np.ones((20, 3), np.uint8), "LAll": np.eye(2)[[0, 1] * 10]}


def write(path, held, change=lambda file: None):
    """Write variables as MATLAB 7.3 does: columns first, 512 bytes of its own before, the class as an attribute."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in held.items():
            dataset = file.create_dataset(name, data=value.T, compression="gzip", chunks=value.T.shape)
            dataset.attrs["MATLAB_class"] = np.bytes_(value.dtype.name)
        file.create_group("#refs#")
        change(file)
    with path.open("r+b") as handle:
        handle.write(HEADER)
    return path


def sparse(file, name, matrix, **changed):
    parts = {"data": matrix.data, "ir": matrix.indices.astype("u8"), "jc": matrix.indptr.astype("u8"), **changed}
    group = file.create_group(name)
    group.attrs["MATLAB_class"] = np.bytes_("double")
    group.attrs["MATLAB_sparse"] = np.uint64(parts.pop("height", matrix.shape[0]))
    for part, value in parts.items():
        group.create_dataset(part, data=value)


def replaced(name, **options):
    """Put an empty dataset of some shape in the place of a variable: what it claims, it doesn't have."""

    def change(file):
        del file[name]
        file.create_dataset(name, dtype="f8", **options).attrs["MATLAB_class"] = np.bytes_("double")

    return change


def test_axes_are_those_of_matlab(tmp_path, said):
    made = import_mat(write(tmp_path / "new.mat", values()), tmp_path / "set", say=said)
    np.testing.assert_array_equal(made.image_emb, values()["XAll"].astype(np.float32))
    assert made.dims == (4, 3)
    assert made.images["labels"].tolist() == ["1", "2"] * 10


def test_files_of_other_programs_are_as_they_say(tmp_path, said):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file["XAll"], file["YAll"] = values()["XAll"].astype("f2"), values()["YAll"].astype(bool)
        file["LAll"] = np.array([1, 2] * 10)
    made = import_mat(tmp_path / "mine.h5", tmp_path / "set", say=said)
    np.testing.assert_array_equal(made.image_emb, values()["XAll"].astype("f2").astype(np.float32))
    assert made.images["labels"].tolist() == ["1", "2"] * 10


def test_a_sparse_bag_of_words(tmp_path, said):
    words = csc_matrix(np.random.default_rng(1).integers(0, 2, (20, 5)).astype(float) + np.eye(20, 5))
    held = {name: value for name, value in values().items() if name != "YAll"}
    path = write(tmp_path / "new.mat", held, lambda file: sparse(file, "YAll", words))
    made = import_mat(path, tmp_path / "set", say=said)
    rows = words.toarray().any(axis=1)
    np.testing.assert_array_equal(made.text_emb, words.toarray()[rows].astype(np.float32))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ir": np.full(5, 10**9, "u8")}, "can't be read as a .mat file"),
        ({"ir": np.zeros(4, "u8")}, "can't be read as a .mat file"),
        ({"jc": np.array([0, 9, 2, 3, 4, 5], "u8")}, "can't be read as a .mat file"),
        ({"jc": np.array([0, 1, 2, 3, 4, 2**62], "u8")}, "can't be read as a .mat file"),
        ({"data": np.ones((5, 1))}, r"YAll: is \(\) struct"),
        ({"height": 2**40}, r"YAll: is \(1099511627776, 5\), and 2,147,483,648 values are the most"),
        ({"data": np.ones(5, "c16")}, "can't be read as a .mat file"),
    ],
)
def test_a_malformed_sparse_one_is_refused(tmp_path, changed, message):
    held = {name: value for name, value in values().items() if name != "YAll"}
    path = write(tmp_path / "new.mat", held, lambda file: sparse(file, "YAll", csc_matrix(np.eye(20, 5)), **changed))
    with pytest.raises(UserError, match=message):
        import_mat(path, tmp_path / "set", say=lambda line: None)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            replaced("XAll", shape=(2**10, 2**20), chunks=(16, 16)),
            r"header says \(1048576, 1024\), but the file has only",
        ),
        (replaced("XAll", shape=(2**30, 2**30), chunks=(16, 16)), "values are the most that are read"),
        (replaced("XAll", shape=(4, 20)), r"header says \(20, 4\), but the file has only 0 bytes"),
        (replaced("XAll", shape=(3, 2, 2, 20)), r"XAll: is \(20, 2, 2, 3\) double, pictures and not features"),
        (replaced("XAll", shape=()), r"XAll: is \(\) double, expected numbers"),
    ],
)
def test_a_header_that_asks_for_more_than_there_is_allocates_nothing(tmp_path, change, message):
    path = write(tmp_path / "new.mat", values(), change)
    tracemalloc.start()
    with pytest.raises(UserError, match=message):
        import_mat(path, tmp_path / "set", say=lambda line: None)
    assert tracemalloc.get_traced_memory()[1] < 1 << 26
    tracemalloc.stop()
    assert not (tmp_path / "set").exists()


def test_nothing_is_read_from_other_files(tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret.bin").write_bytes(np.ones(80).tobytes())
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["XAll"] = np.ones((20, 4))

    def external(file):
        del file["XAll"]
        file.create_dataset("XAll", (4, 20), "f8", external=[(str(tmp_path / "secret.bin"), 0, 640)])

    def virtual(file):
        del file["XAll"]
        layout = h5py.VirtualLayout((20, 4), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "XAll", (20, 4))
        file.create_virtual_dataset("XAll", layout)

    def link(file):
        del file["XAll"]
        file["XAll"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "XAll")

    def soft(file):
        del file["XAll"]
        file["XAll"] = h5py.SoftLink("/YAll")

    for change, message in (
        (external, r"a value in other files"), (virtual, "a value in other files"),
        (link, "a link, which may lead"), (soft, "a link, which may lead"),
    ):  # fmt: skip
        path = write(tmp_path / "new.mat", values(), change)
        with pytest.raises(UserError, match=rf"new\.mat: XAll: is \(\) {message}"):
            import_mat(path, tmp_path / "set", say=lambda line: None)


def test_what_holds_no_numbers_is_refused(tmp_path):
    def change(file):
        del file["XAll"]
        file["XAll"] = np.array([b"x"] * 20)

    path = write(tmp_path / "new.mat", values(), change)
    with pytest.raises(UserError, match=r"XAll: is \(20, 1\) bytes8, expected numbers"):
        import_mat(path, tmp_path / "set", say=lambda line: None)


def test_a_damaged_file_is_told(tmp_path):
    (tmp_path / "new.mat").write_bytes(HEADER + b"\x00" * 400)
    with pytest.raises(UserError, match=r"new\.mat: (can't be read|is of MATLAB 7\.3)"):
        import_mat(tmp_path / "new.mat", tmp_path / "set", say=lambda line: None)
    raw = write(tmp_path / "whole.mat", values()).read_bytes()
    for end in (600, 1024, len(raw) // 2, len(raw) - 1):
        (tmp_path / "cut.mat").write_bytes(raw[:end])
        with pytest.raises(UserError, match=r"cut\.mat: can't be read"):
            import_mat(tmp_path / "cut.mat", tmp_path / "set", say=lambda line: None)


def test_without_h5py_the_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "new.mat").write_bytes(HEADER + b"\x00" * 400)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        UserError, match=r"new\.mat: is of MATLAB 7\.3 \(HDF5\), which takes the package h5py.*save -v7"
    ):
        import_mat(tmp_path / "new.mat", tmp_path / "set", say=lambda line: None)
