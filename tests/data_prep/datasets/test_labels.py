import pytest

from data_prep.datasets.labels import labels_of_images, read_labels
from data_prep.datasets.tables import read_captions
from rank_xmodal.errors import UserError


def table(tmp_path, *labels, image="a"):
    lines = [f"{image},{value}" for value in labels]
    (tmp_path / "c.csv").write_text("\n".join(["image,labels", *lines]) + "\n")
    return read_captions(tmp_path / "c.csv", ("image",))


def test_classes_are_sorted_and_each_once(tmp_path):
    assert read_labels(table(tmp_path, "sport", "b | a", "a|b|a", "3")) == ["sport", "a|b", "a|b", "3"]


def test_without_the_column_there_are_none(tmp_path):
    (tmp_path / "c.csv").write_text("image\na\n")
    read = read_captions(tmp_path / "c.csv", ("image",))
    assert read_labels(read) is None
    assert labels_of_images(read, read["image"], None) == {}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", r"c\.csv, line 3: labels is empty\. Name the item's class, .*leave out the column"),
        (" ", r"c\.csv, line 3: labels is empty"),
        ("|", r"c\.csv, line 3: labels '\|' names an empty class"),
        ("a||b", r"c\.csv, line 3: labels 'a\|\|b' names an empty class"),
        ("a|", r"line 3: labels 'a\|' names an empty class"),
    ],
)
def test_an_empty_class_is_named_by_its_row(tmp_path, value, message):
    with pytest.raises(UserError, match=message):
        read_labels(table(tmp_path, "a", value))


def test_an_image_has_the_classes_of_all_its_captions(tmp_path):
    read = table(tmp_path, "a|b", "b|a")
    assert labels_of_images(read, read["image"], read_labels(read)) == {"a": "a|b"}


@pytest.mark.parametrize(("first", "second"), [("cat", "dog"), ("a|b", "a")])
def test_captions_of_an_image_that_differ_are_named_both(tmp_path, first, second):
    read = table(tmp_path, first, second)
    message = rf"c\.csv, line 3: image 'a' has labels '{second}' here and '{first}' in line 2".replace("|", r"\|")
    with pytest.raises(UserError, match=message):
        labels_of_images(read, read["image"], read_labels(read))
