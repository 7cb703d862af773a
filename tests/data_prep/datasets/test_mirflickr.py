"""MIRFlickr-25K in miniature."""

import pytest

from data_prep.datasets import load
from rank_xmodal.errors import UserError


@pytest.fixture
def flickr(tmp_path, picture):
    """Return a folder of 12 images: the last has no class, the one before no tags."""
    root = tmp_path / "mir"
    tags = root / "mirflickr" / "meta" / "tags"
    tags.mkdir(parents=True)
    for number in range(1, 13):
        picture(number).save(root / "mirflickr" / f"im{number}.jpg")
        (tags / f"tags{number}.txt").write_text("" if number == 11 else f"sunset\nn{number}\n")
    (root / "annotations").mkdir()
    for name, numbers in (
        ("sky", range(1, 12)), ("sea", (2, 10)), ("sea_r1", (2,)), ("plant_life", ()),
    ):  # fmt: skip
        (root / "annotations" / f"{name}.txt").write_text("".join(f"{n}\r\n" for n in numbers))
    (root / "annotations" / "README.txt").write_text("Not a list.\n")
    return root


def test_tags_are_the_caption_and_classes_are_joined(flickr, said):
    corpus = load("mirflickr", flickr, say=said)
    assert corpus.images["image_id"].tolist() == [
        f"im{number}.jpg" for number in range(1, 11)
    ]  # by number, not by name
    assert corpus.texts["text"].tolist()[:2] == ["sunset n1", "sunset n2"]
    assert corpus.images["labels"].tolist() == ["sky", "sea|sky", *["sky"] * 7, "sea|sky"]
    assert sorted(corpus.images["split"]) == ["test", *["train"] * 8, "val"]
    assert "mirflickr: of 12 items left out: 1 without a class, 1 without words" in said


def test_the_archives_may_lie_in_one_folder(flickr, said):
    (flickr / "annotations").rename(flickr / "mirflickr" / "mirflickr25k_annotations_v080")
    assert len(load("mirflickr", flickr, say=said).images) == 10
    assert len(load("mirflickr", flickr / "mirflickr", say=said).images) == 10


@pytest.mark.parametrize("value", ["13", "0", "one", "-1", "9" * 30, "../../etc/passwd", "1.5", ""])
def test_an_annotation_of_no_image_is_named(flickr, value):
    (flickr / "annotations" / "sea.txt").write_text(f"2\n{value}\n3\n")
    with pytest.raises(UserError, match=r"sea\.txt, line 2: '.*' is no number of an image of .*mirflickr"):
        load("mirflickr", flickr)


def test_what_is_missing_is_named(flickr, tmp_path):
    with pytest.raises(UserError, match=r"no such folder of images"):
        load("mirflickr", tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no images im1\.jpg"):
        load("mirflickr", tmp_path / "empty")
    (flickr / "mirflickr" / "meta" / "tags" / "tags3.txt").unlink()
    with pytest.raises(UserError, match=r"tags3\.txt: no such file"):
        load("mirflickr", flickr)
    for path in (flickr / "annotations").glob("*.txt"):
        path.unlink()
    with pytest.raises(UserError, match=r"no annotations, as animals\.txt"):
        load("mirflickr", flickr)
    (flickr / "annotations").rmdir()
    with pytest.raises(UserError, match=r"no such folder of annotations"):
        load("mirflickr", flickr)
