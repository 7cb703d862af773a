import pandas as pd
import pytest

from data_prep.datasets.tables import read_captions
from rank_xmodal.errors import UserError


def read(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return read_captions(path, ("image", "caption"))


def test_values_places_and_a_byte_order_mark(tmp_path):
    table = read(
        tmp_path / "c.csv",
        '\ufeffimage,caption\n\na.jpg, "x" \nb.jpg,"two\nlines, one ""quote"""\nc.jpg,z\n'.replace(' "x" ', " x "),
    )
    assert table["image"] == ["a.jpg", "b.jpg", "c.jpg"]
    assert table["caption"] == ["x", 'two\nlines, one "quote"', "z"]
    assert table.places == [3, 4, 6]  # as an editor counts them
    assert table.at(2) == f"{tmp_path / 'c.csv'}, line 6"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"c\.csv: the file is empty"),
        (" \n\n", r"c\.csv: the file is empty"),
        ("image,caption\n", r"c\.csv: it has a header and no rows"),
        ("file,caption\na,b\n", r"c\.csv: no column 'image' \(found 'file', 'caption'\)"),
        ("image;caption\na;b\n", r"no column 'image'.*separate columns with commas"),
        ("image,caption\na,b\nc,d, e\n", r"c\.csv, line 3: 3 fields, but the header names 2.*double quotes"),
        ("image,caption\na,b\nc\n", r"c\.csv, line 3: 1 fields"),
        ('image,caption\na,b\nc,"d\n', r"c\.csv, line 3: not valid CSV"),
        ("image,caption,image\na,b,c\n", r"line 1: the column 'image' is named twice"),
    ],
)
def test_bad_csv(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path / "c.csv", text)


def test_not_utf8_names_the_line_and_the_byte(tmp_path):
    with pytest.raises(UserError, match=r"c\.csv, line 3: byte 0xe9 is not UTF-8.*iconv"):
        read(tmp_path / "c.csv", "image,caption\na,b\nc,café\n", "latin1")


def test_parquet_is_the_same_table(tmp_path):
    pd.DataFrame({"image": ["a", "b"], "caption": ["x", None], "n": [3.0, 4.0]}).to_parquet(tmp_path / "c.parquet")
    table = read_captions(tmp_path / "c.parquet", ("image", "caption"))
    assert table.columns == {"image": ["a", "b"], "caption": ["x", ""], "n": ["3", "4"]}
    with pytest.raises(UserError, match=r"c\.parquet, row 1: caption is empty"):
        table.filled("caption")


def test_wrong_files(tmp_path):
    with pytest.raises(UserError, match=r"gone\.csv: no such file.*image, caption"):
        read_captions(tmp_path / "gone.csv", ("image", "caption"))
    (tmp_path / "c.xlsx").write_text("x")
    with pytest.raises(UserError, match=r"must end in \.csv or \.parquet"):
        read_captions(tmp_path / "c.xlsx", ("image",))
    (tmp_path / "c.parquet").write_text("x")
    with pytest.raises(UserError, match="not a readable Parquet"):
        read_captions(tmp_path / "c.parquet", ("image",))


def test_unique(tmp_path):
    table = read(tmp_path / "c.csv", "image,caption\na,x\nb,y\na,z\n")
    table.unique("caption")
    with pytest.raises(UserError, match=r"line 4: image 'a' stands already in line 2"):
        table.unique("image")


def test_labels_may_be_lists_in_parquet(tmp_path):
    frame = pd.DataFrame({"image": ["a", "b", "c"], "labels": [["x", "y"], ["x"], None], "boxes": [[1, 2]] * 3})
    frame.to_parquet(tmp_path / "c.parquet")
    table = read_captions(tmp_path / "c.parquet", ("image",))
    assert table.columns == {"image": ["a", "b", "c"], "labels": ["x|y", "x", ""]}  # of other lists nobody makes words
    for bad in ("x|y", "", None):
        frame["labels"] = [["x"], ["x", bad], ["x"]]
        frame.to_parquet(tmp_path / "c.parquet")
        with pytest.raises(UserError, match=r"c\.parquet, row 1: labels holds the class '.*'\. Name it, without"):
            read_captions(tmp_path / "c.parquet", ("image",))


@pytest.mark.parametrize(("encoding", "told"), [("utf-16", "utf-16"), ("latin1", "latin1")])
def test_another_encoding_is_named_in_what_converts_it(tmp_path, encoding, told):
    with pytest.raises(UserError, match=rf"c\.csv, line \d: byte 0x\w\w is not UTF-8.*iconv -f {told} -t utf-8"):
        read(tmp_path / "c.csv", "image,caption\na.jpg,café\n", encoding)
