"""Labelled features of two kinds from MATLAB files, and from arrays with --unaligned."""

import tracemalloc
import zlib

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.io import savemat
from scipy.sparse import csc_matrix

from data_prep.importing import import_embeddings
from data_prep.importing_mat import import_mat
from experiments.cli.main import cli
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.retrieval.gallery import rank_gallery


def quiet(line):
    pass


def features(**changed):
    """Return the variables of a corpus of 12 training and 5 test pairs."""
    rng = np.random.default_rng(0)
    values = {
        "I_tr": rng.normal(size=(12, 6)) * 1e6, "I_te": rng.normal(size=(5, 6)), "T_tr": rng.random((12, 3)),
        "T_te": rng.random((5, 3)), "L_tr": rng.integers(1, 4, (12, 1)), "L_te": rng.integers(1, 4, (5, 1)),
    }  # fmt: skip
    return {key: value for key, value in {**values, **changed}.items() if value is not None}


def written(folder, **changed):
    savemat(folder / "some.mat", features(**changed))
    return folder / "some.mat"


def test_features_are_kept_as_they_are_with_splits_and_classes(tmp_path):
    made = import_mat(written(tmp_path), tmp_path / "set", val=0.25, seed=3, say=quiet)
    known = features()
    assert made.dims == (6, 3)
    assert not made.aligned
    assert made.image_emb.dtype == np.float32
    np.testing.assert_array_equal(made.image_emb, np.concatenate([known["I_tr"], known["I_te"]]).astype(np.float32))
    np.testing.assert_array_equal(made.text_emb, np.concatenate([known["T_tr"], known["T_te"]]).astype(np.float32))
    assert made.meta["normalised"] is False
    assert made.meta["counts"] == {
        "test": {"images": 5, "texts": 5}, "train": {"images": 9, "texts": 9}, "val": {"images": 3, "texts": 3},
    }  # fmt: skip
    labels = np.concatenate([known["L_tr"], known["L_te"]])[:, 0]
    assert made.images["labels"].tolist() == [str(value) for value in labels] == made.texts["labels"].tolist()
    assert EmbeddingSet.open(tmp_path / "set").fingerprint == made.fingerprint
    again = import_mat(tmp_path / "some.mat", tmp_path / "set", val=0.25, seed=3, say=quiet)  # nothing to do
    assert again.fingerprint == made.fingerprint
    other = import_mat(tmp_path / "some.mat", tmp_path / "other", val=0.25, seed=4, say=quiet)
    assert other.images["split"].tolist() != made.images["split"].tolist()


def test_variables_of_all_items_are_dealt_out_and_columns_are_classes(tmp_path):
    rng = np.random.default_rng(0)
    columns = np.eye(3, dtype=np.uint8)[rng.integers(0, 3, 40)]
    columns[0] = [1, 0, 1]
    words = csc_matrix(rng.integers(0, 2, (40, 9)).astype(float))
    savemat(tmp_path / "all.mat", {"deep": rng.normal(size=(40, 4)), "bag": words, "tags": columns, "note": "text"})
    given = {"images": ["deep"], "texts": ["bag"], "labels": ["tags"]}
    made = import_mat(tmp_path / "all.mat", tmp_path / "set", variables=given, say=quiet)
    assert made.meta["counts"]["train"]["images"] == 32
    assert made.meta["counts"]["val"]["images"] == made.meta["counts"]["test"]["images"] == 4
    assert made.images["labels"][0] == "1|3"
    np.testing.assert_array_equal(made.text_emb, words.toarray().astype(np.float32))


@pytest.mark.parametrize(
    ("changed", "options", "message"),
    [
        ({"T_te": None}, {}, r"some\.mat: which of its variables are what\? It holds I_tr \(12, 6\)"),
        ({}, {"variables": {"images": ["I_tr"], "texts": ["T_tr"]}}, "labels is not said"),
        ({}, {"variables": {"images": ["I_tr"], "texts": ["T_tr", "T_te"], "labels": ["L_tr"]}}, "two names"),
        (
            {}, {"variables": {"images": ["I_tr"], "texts": ["T_tr"], "labels": ["L_tra"]}},
            r"no variable 'L_tra'\. Did you mean",
        ),
        ({"L_te": np.ones((4, 1))}, {}, r"rows differ: I_te 5, T_te 5, L_te 4"),
        ({"T_tr": np.full((12, 3), np.nan)}, {}, r"T_tr, row 0: holds NaN or infinity"),
        ({"I_tr": np.full((12, 6), 1e300)}, {}, r"I_tr, row 0: holds NaN or infinity"),
        ({"I_tr": "words"}, {}, r"I_tr: is .*expected numbers"),
        ({"I_tr": np.zeros((12, 6, 2))}, {}, r"I_tr: is \(12, 6, 2\)"),
        ({"L_tr": np.full((12, 1), 0.5)}, {}, "no class number"),
        ({"L_tr": np.full((12, 3), 2), "L_te": np.eye(5)[:, :3]}, {}, "not all zeros and ones"),
        ({"L_tr": np.zeros((12, 3)), "L_te": np.eye(5)[:, :3]}, {}, r"some\.mat: no item of train has a class"),
        ({"L_tr": np.full((12, 1), 1e30)}, {}, "no class number"),
        ({"I_te": np.ones((5, 4))}, {}, r"images of 2 widths: I_tr \(12, 6\), I_te \(5, 4\)"),
        ({"L_te": np.eye(5)[:, :3] + np.eye(5)[:, 2:]}, {}, r"labels of 2 widths: L_tr \(12, 1\), L_te \(5, 3\)"),
        ({"I_tr": np.zeros((3, 4, 3, 12))}, {}, r"I_tr: is \(3, 4, 3, 12\) double, pictures and not features"),
        ({"I_tr": np.ones((12, 6)) * 1j}, {}, r"I_tr: is \(12, 6\) complex128"),
        ({}, {"val": 1.0}, r"val=1: must be a share"),
        ({}, {"val": 0.99}, r"val=0.99 of 12 training items leaves none to learn from"),
        ({"I_tr": np.zeros((0, 6))}, {}, r"I_tr: is \(0, 6\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path, changed, options, message):
    path = written(tmp_path, **changed)
    with pytest.raises(UserError, match=message):
        import_mat(path, tmp_path / "set", say=quiet, **options)
    assert not (tmp_path / "set").exists()


def test_a_file_that_is_none_is_told(tmp_path):
    with pytest.raises(UserError, match=r"absent\.mat: no such file"):
        import_mat(tmp_path / "absent.mat", tmp_path / "set", say=quiet)
    for content in (b"", b"\x89HDF\r\n", b"words" * 100, written(tmp_path).read_bytes()[:300]):
        (tmp_path / "bad.mat").write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.mat: (can't be read|which of its)"):
            import_mat(tmp_path / "bad.mat", tmp_path / "set", say=quiet)


def test_items_without_a_class_or_words_are_left_out(tmp_path, said):
    classes, words = np.eye(3)[[0, 1, 2, 0] * 5].astype(np.uint8), np.ones((20, 3))
    classes[[2, 5]] = 0
    words[[5, 7]] = 0
    values = {"XAll": np.arange(40.0).reshape(20, 2), "YAll": words, "LAll": classes}
    savemat(tmp_path / "all.mat", values)
    made = import_mat(tmp_path / "all.mat", tmp_path / "set", say=said)
    assert made.image_emb[:, 0].tolist() == [2.0 * row for row in range(20) if row not in (2, 5, 7)]
    assert "all.mat: of 20 items left out: 2 without a class, 1 without words" in said
    assert len(made.texts) == 17


def test_each_variable_may_have_a_file_of_its_own(tmp_path, said):
    values = {"XAll": np.arange(40.0).reshape(20, 2), "YAll": np.ones((20, 3)), "LAll": np.eye(2)[[0, 1] * 10]}
    paths = [tmp_path / f"mirflickr25k-{name.lower()}.mat" for name in values]
    for path, (name, value) in zip(paths, values.items(), strict=True):
        savemat(path, {name: value})
    made = import_mat(paths, tmp_path / "set", say=said)
    np.testing.assert_array_equal(made.image_emb, values["XAll"].astype(np.float32))
    assert made.images["labels"].tolist() == ["1", "2"] * 10
    savemat(tmp_path / "more.mat", {"IAll": np.zeros((2, 2, 3, 20)), "XAll": values["XAll"]})
    with pytest.raises(UserError, match=r"more\.mat: has a variable 'XAll', and so has .*xall\.mat"):
        import_mat([*paths, tmp_path / "more.mat"], tmp_path / "other", say=said)
    with pytest.raises(UserError, match=r"xall\.mat, .*yall\.mat: which of its variables are what"):
        import_mat(paths[:2], tmp_path / "other", say=said)
    done = CliRunner().invoke(
        cli, ["import", *(word for path in paths for word in ("--mat", str(path))), "--out", str(tmp_path / "cli")]
    )
    assert done.exit_code == 0, done.output
    assert "images 2 and texts 3" in done.output


def test_labels_may_come_from_lists(tmp_path, said):
    path = written(tmp_path, L_tr=None, L_te=None)
    with pytest.raises(UserError, match=r"which of its variables are what.*give these with --labels"):
        import_mat(path, tmp_path / "set", say=said)
    numbers = {"train": [1, 2, 3] * 4, "test": [10, 1, 1, 2, 3]}
    lists = [tmp_path / f"{split}set_txt_img_cat.list" for split in numbers]
    for one, own in zip(lists, numbers.values(), strict=True):
        one.write_text("".join(f"text-{row}\timage{row}\t{number}\n" for row, number in enumerate(own)))
    made = import_mat(path, tmp_path / "set", labels=lists, say=said)
    assert made.images["labels"].tolist() == [str(number) for own in numbers.values() for number in own]
    with pytest.raises(UserError, match=r"rows differ: I_tr 12, T_tr 12, testset_txt_img_cat\.list 5"):
        import_mat(path, tmp_path / "other", labels=lists[::-1], say=said)
    with pytest.raises(UserError, match="2 variables of images and 1 lists"):
        import_mat(path, tmp_path / "other", labels=lists[:1], say=said)
    lists[1].write_text("text-0\timage0\n")
    with pytest.raises(UserError, match=r"testset_txt_img_cat\.list, line 1: .* must hold"):
        import_mat(path, tmp_path / "other", labels=lists, say=said)
    with pytest.raises(UserError, match="labels are given as files, too"):
        import_mat(
            path, tmp_path / "other", labels=lists, say=said,
            variables={"images": ["I_tr"], "texts": ["T_tr"], "labels": ["T_tr"]},
        )  # fmt: skip


def patched(path, old, new):
    raw = path.read_bytes()
    assert raw.count(old) == 1
    path.write_bytes(raw.replace(old, new))


def test_a_header_that_asks_for_more_than_there_is_allocates_nothing(tmp_path, said):
    tracemalloc.start()
    path = written(tmp_path, I_tr=np.zeros((12, 17)))
    patched(path, np.array([12, 17], "<i4").tobytes(), np.array([2**20, 2**10], "<i4").tobytes())
    with pytest.raises(UserError, match=r"I_tr: its header says \(1048576, 1024\), but the file has only"):
        import_mat(path, tmp_path / "set", say=said)
    path = written(tmp_path, I_tr=csc_matrix(np.eye(12, 17)))
    patched(path, np.array([12, 17], "<i4").tobytes(), np.array([2**30, 17], "<i4").tobytes())
    with pytest.raises(UserError, match=r"I_tr: is \(1073741824, 17\), and 2,147,483,648 values are the most"):
        import_mat(path, tmp_path / "set", say=said)
    assert tracemalloc.get_traced_memory()[1] < 1 << 27
    tracemalloc.stop()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("code", [0, 8, 14, 19, 255, 1000])
def test_an_unknown_type_is_told_before_scipy_crashes_over_it(tmp_path, said, code, compressed):
    path = written(tmp_path, I_tr=np.zeros((12, 17)))
    patched(path, np.array([9, 12 * 17 * 8], "<u4").tobytes(), np.array([code, 12 * 17 * 8], "<u4").tobytes())
    if compressed:
        raw = path.read_bytes()
        packed = zlib.compress(raw[128 : 128 + 8 + int.from_bytes(raw[132:136], "little")])
        path.write_bytes(raw[:128] + np.array([15, len(packed)], "<u4").tobytes() + packed)
    with pytest.raises(UserError, match=rf"some\.mat: can't be read as a .mat file \((unknown type {code} of|ends)"):
        import_mat(path, tmp_path / "set", say=said)


def test_whatever_scipy_writes_is_read(tmp_path, said):
    more = {"note": "some text", "cells": np.array([[1, "a"]], dtype=object), "one": {"a": 1}, "c": np.eye(3) * 1j}
    more["zeros"] = np.zeros((2000, 200))  # 3 MB that are packed into a block
    for options in ({"do_compression": True}, {"oned_as": "row"}):
        savemat(
            tmp_path / "some.mat", {**more, **features(), "tiny": np.uint8(3), "bag": csc_matrix(np.eye(4))}, **options
        )
        made = import_mat(tmp_path / "some.mat", tmp_path / str(len(options)), overwrite=True, say=said)
        np.testing.assert_array_equal(made.image_emb[:12], features()["I_tr"].astype(np.float32))


def test_a_name_that_is_no_name_is_shown_as_it_is(tmp_path, said):
    path = written(tmp_path, I_tr=np.zeros((3, 4, 3)))
    patched(path, b"I_tr", b"/.tr")
    given = {"images": ["/.tr"], "texts": ["T_tr"], "labels": ["L_tr"]}
    with pytest.raises(UserError, match=r"some\.mat: /\.tr: is \(3, 4, 3\) double, expected numbers"):
        import_mat(path, tmp_path / "set", variables=given, say=said)


def test_indices_of_a_sparse_matrix_are_checked(tmp_path, said):
    path = written(tmp_path, I_tr=csc_matrix(np.eye(12, 17)[::-1]))
    patched(path, np.arange(12, dtype="<i4")[::-1].tobytes(), np.array([*range(11), 10**9], "<i4").tobytes())
    with pytest.raises(UserError, match=r"some\.mat: can't be read"):
        import_mat(path, tmp_path / "set", say=said)


def test_arrays_of_two_widths_are_taken_if_that_is_meant(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "A.npy", rng.normal(size=(6, 5)) * 100)
    np.save(tmp_path / "B.npy", rng.normal(size=(6, 2)))
    rows = "".join(f"t{i},{i},words {i},{'train' if i < 4 else 'test'}\n" for i in range(6))
    (tmp_path / "C.csv").write_text("caption_id,image_id,caption,split\n" + rows)
    paths = [tmp_path / name for name in ("A.npy", "B.npy", "C.csv")]
    with pytest.raises(UserError, match=r"A\.npy is 5 wide, .*B\.npy is 2 wide.*--unaligned"):
        import_embeddings(*paths, tmp_path / "set", say=quiet)
    made = import_embeddings(*paths, tmp_path / "set", unaligned=True, say=quiet)
    np.testing.assert_array_equal(made.image_emb, np.load(paths[0]).astype(np.float32))
    with pytest.raises(UserError, match="lie in no common space"):
        rank_gallery(made, "t2i", "test")
