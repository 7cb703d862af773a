"""The Wikipedia set in miniature: lists, texts and images."""

import pytest

from data_prep.datasets import load
from data_prep.datasets.wikipedia import read_list
from rank_xmodal.errors import UserError

ROWS = {"train": [("t0-1.2", "i0", 1), ("t1", "i1", 2), ("t2", "i2", 2)], "test": [("t3", "i3", 1)]}


@pytest.fixture
def articles(tmp_path, picture):
    root = tmp_path / "wiki"
    (root / "texts").mkdir(parents=True)
    (root / "categories.list").write_text("art\nsport\n")
    for split, rows in ROWS.items():
        (root / f"{split}set_txt_img_cat.list").write_text("".join(f"{t}\t{i}\t{c}\n" for t, i, c in rows))
        for text, image, number in rows:
            folder = root / "images" / ("art", "sport")[number - 1]
            folder.mkdir(parents=True, exist_ok=True)
            picture(number).save(folder / f"{image}.jpg")
            # No valid XML: a lone &, and an entity that a parser would take for a bomb.
            (root / "texts" / f"{text}.xml").write_text(
                f"<?xml version='1.0'?><!DOCTYPE d [<!ENTITY a 'b'>]><document><text>\nOf {text} & a &amp;\n"
                "<b>c</b> &a;</text></document>"
            )
    return root


def test_the_lists_are_the_splits(articles, said):
    corpus = load("wikipedia", articles, say=said)
    assert corpus.images["image_id"].tolist() == ["art/i0.jpg", "sport/i1.jpg", "sport/i2.jpg", "art/i3.jpg"]
    assert corpus.images["split"].tolist() == ["train"] * 3 + ["test"]
    assert corpus.images["labels"].tolist() == corpus.texts["labels"].tolist() == ["art", "sport", "sport", "art"]
    assert corpus.texts["text"][0] == "Of t0-1.2 & a & <b>c</b> &a;"
    assert said.lines == []


def test_images_may_lie_in_one_folder(articles, said):
    for path in sorted((articles / "images").glob("*/*.jpg")):
        path.rename(articles / "images" / path.name)
    assert load("wikipedia", articles, say=said).images["path"].tolist() == ["i0.jpg", "i1.jpg", "i2.jpg", "i3.jpg"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("../../secret\ti1\t1", r"trainset_txt_img_cat\.list, line 2: '\.\./\.\./secret' is no plain name"),
        ("t1\t/etc/passwd\t1", r"line 2: '/etc/passwd' is no plain name"),
        ("t1\t..\\..\\x\t1", r"line 2: '\.\.\\\\.* is no plain name"),
        ("t1\ti1\t3", r"line 2: the class 3 is none of the 2 in categories\.list"),
        ("t1\ti1\t0", r"line 2: 't1\\ti1\\t0' must hold a text, an image and the number of a class"),
        ("t1\ti1", r"line 2: .* must hold"),
        ("", r"line 2: '' must hold"),
        ("t1\ti9\t2", r"line 2: the image 'sport/i9\.jpg' is not in"),
        (f"t1\t{'x' * 5000}\t2", r"line 2: the image 'sport/x+\.jpg' is not in"),
        ("t9\ti1\t2", r"t9\.xml: no such file"),
    ],
)
def test_a_bad_line_is_named(articles, line, message):
    path = articles / "trainset_txt_img_cat.list"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")
    with pytest.raises(UserError, match=message):
        load("wikipedia", articles)


def test_a_class_that_leads_out_of_the_folder_is_refused(articles):
    (articles / "categories.list").write_text("../outside\nsport\n")
    with pytest.raises(UserError, match=r"categories\.list: the class '\.\./outside' leads out of"):
        load("wikipedia", articles)


def test_what_is_missing_is_named(articles, tmp_path):
    (articles / "texts" / "t1.xml").write_text("<text>cut")
    with pytest.raises(UserError, match=r"t1\.xml: holds no <text>"):
        load("wikipedia", articles)
    (articles / "testset_txt_img_cat.list").write_text("")
    with pytest.raises(UserError, match="the list is empty"):
        read_list(articles / "testset_txt_img_cat.list")
    with pytest.raises(UserError, match=r"categories\.list: no such file"):
        load("wikipedia", tmp_path / "gone")


def test_an_image_twice_is_refused(articles):
    with (articles / "testset_txt_img_cat.list").open("a") as handle:
        handle.write("t0-1.2\ti0\t1\n")
    with pytest.raises(UserError, match=r"the image 'art/i0\.jpg' stands there twice"):
        load("wikipedia", articles)
