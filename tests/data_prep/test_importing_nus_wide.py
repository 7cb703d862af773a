"""NUS-WIDE's features in miniature."""

import numpy as np
import pytest
from click.testing import CliRunner

from data_prep.importing_nus_wide import import_nus_wide
from experiments.cli.main import cli
from rank_xmodal.errors import UserError


def test_features_tags_and_classes_meet_by_the_lists(nus_wide, tmp_path, said):
    made = import_nus_wide(nus_wide, tmp_path / "set", val=0.3, say=said)
    assert made.dims == (10, 5)
    assert not made.aligned
    assert made.meta["dataset"] == "nus_wide"
    assert {split: n["images"] for split, n in made.meta["counts"].items()} == {"test": 5, "train": 5, "val": 2}
    assert made.images["labels"].tolist()[4] == "elk|lake|sky"
    assert "of 14 items left out: 1 without a class, 1 without words" in said
    first = np.loadtxt(nus_wide / "NUS_WID_Low_Level_Features/Low_Level_Features/Train_Normalized_CM55.dat")
    np.testing.assert_allclose(made.image_emb[:6, 3:5], first[:6].astype(np.float32))


def test_sift_words_and_the_largest_classes(nus_wide, tmp_path, said):
    made = import_nus_wide(nus_wide, tmp_path / "set", features="bow", classes=1, say=said)
    assert made.image_emb[0].tolist() == [13, 0, 14]
    assert set(made.images["labels"]) == {"sky"}
    with pytest.raises(UserError, match="features='sift': must be one of normalized, bow"):
        import_nus_wide(nus_wide, tmp_path / "other", features="sift", say=said)


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("NUS_WID_Tags/Test_Tags1k.dat", "0 x 1 0 0", r"Test_Tags1k\.dat: no table of numbers \(could not convert"),
        ("NUS_WID_Tags/Test_Tags1k.dat", "0 1", r"Test_Tags1k\.dat: no table of numbers \(.*columns changed"),
        ("NUS_WID_Tags/Test_Tags1k.dat", "nan 1 0 0 0", r"Test_Tags1k\.dat, row 1: holds NaN"),
        ("NUS_WID_Tags/Test_Tags1k.dat", "é 1 0 0 0", r"Test_Tags1k\.dat: no table of numbers"),
        ("NUS_WID_Tags/Test_Tags1k.dat", None, r"Test_Tags1k\.dat: has 4 rows, the list has 5 images"),
    ],
)
def test_a_bad_table_is_named(nus_wide, tmp_path, file, line, message):
    lines = (nus_wide / file).read_text().splitlines()
    (nus_wide / file).write_text("\n".join([lines[0], *([] if line is None else [line]), *lines[2:]]) + "\n")
    with pytest.raises(UserError, match=message):
        import_nus_wide(nus_wide, tmp_path / "set", say=lambda line: None)
    assert not (tmp_path / "set").exists()


def test_train_and_test_must_be_as_wide(nus_wide, tmp_path):
    path = nus_wide / "NUS_WID_Tags" / "Test_Tags1k.dat"
    path.write_text("1 0\n" * 5)
    with pytest.raises(UserError, match=r"texts of train are 5 wide, of test 2"):
        import_nus_wide(nus_wide, tmp_path / "set", say=lambda line: None)
    path.unlink()
    with pytest.raises(UserError, match=r"no Test_Tags1k\.dat .*Unpack NUS_WID_Tags\.zip"):
        import_nus_wide(nus_wide, tmp_path / "set", say=lambda line: None)


def test_the_command(nus_wide, tmp_path):
    def run(*words):
        return CliRunner().invoke(cli, ["import", *map(str, words)])

    done = run("--nus-wide", nus_wide, "--classes", 2, "--val", 0.2, "--out", tmp_path / "set")
    assert done.exit_code == 0, done.output
    assert "images 10 and texts 5, not aligned, wide" in done.output
    for words in (
        ("--nus-wide", nus_wide, "--mat", "a.mat"), ("--mat", "a.mat", "--classes", 2), ("--nus-features", "bow"),
        ("--labels", "a.list"), ("--val", 0.2),
    ):  # fmt: skip
        done = run(*words, "--out", tmp_path / "other")
        assert isinstance(done.exception, UserError), words
    assert not (tmp_path / "other").exists()
