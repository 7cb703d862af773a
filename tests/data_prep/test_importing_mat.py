"""Labelled features of two kinds from MATLAB files, and from arrays with --unaligned."""

import numpy as np
import pytest
from scipy.io import savemat
from scipy.sparse import csc_matrix

from data_prep.importing import import_embeddings
from data_prep.importing_mat import import_mat
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
        ({"L_tr": np.zeros((12, 3)), "L_te": np.eye(5)[:, :3]}, {}, "L_tr, row 0: names no class"),
        ({"L_tr": np.full((12, 1), 1e30)}, {}, "no class number"),
        ({"I_te": np.ones((5, 4))}, {}, r"images of 2 widths: I_tr \(12, 6\), I_te \(5, 4\)"),
        ({"L_te": np.eye(5)[:, :3] + np.eye(5)[:, 2:]}, {}, r"labels of 2 widths: L_tr \(12, 1\), L_te \(5, 3\)"),
        ({}, {"val": 1.0}, r"val=1: must be a share"),
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
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x00" * 400
    (tmp_path / "new.mat").write_bytes(header)
    with pytest.raises(UserError, match=r"new\.mat: is of MATLAB 7\.3"):
        import_mat(tmp_path / "new.mat", tmp_path / "set", say=quiet)


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
