"""NUS-WIDE in miniature: its photos, lists, tags and labels."""

import shutil

import pytest

from data_prep.datasets import load
from rank_xmodal.errors import UserError


@pytest.fixture
def photos(nus_wide, picture):
    (nus_wide / "Flickr" / "actor").mkdir(parents=True)
    for number in range(14):
        picture(number).save(nus_wide / "Flickr" / "actor" / f"{number:04d}_{100 + number}.jpg")
    return nus_wide


def test_tags_labels_and_splits_meet_by_the_lists(photos, said):
    corpus = load("nus_wide", photos, say=said)
    train = [13, 12, 11, 10, 9, 8, 5]
    assert corpus.images["image_id"].tolist() == [
        f"actor/{number:04d}_{100 + number}.jpg" for number in (*train, 0, 1, 2, 3, 4)
    ]
    assert corpus.images["split"].tolist() == ["train"] * 7 + ["test"] * 5
    assert corpus.texts["text"].tolist()[:2] == ["nature t13", "nature t12"]
    assert corpus.images["labels"][4] == "elk|lake|sky"
    assert corpus.images["labels"][8] == "lake|sky"
    assert "nus_wide: of 14 items left out: 1 without a class, 1 without words" in said
    two = load("nus_wide", photos, classes=2, say=said)
    assert two.images["labels"][4] == "lake|sky"


def test_without_all_labels_those_of_train_and_test_are_read(photos, said):
    whole = load("nus_wide", photos, say=said)
    shutil.rmtree(photos / "Groundtruth" / "AllLabels")
    assert load("nus_wide", photos, say=said).images.equals(whole.images)
    path = photos / "Groundtruth" / "TrainTestLabels" / "Labels_lake_Train.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "-1130179", *lines[2:]]))  # as the release has it
    with pytest.raises(UserError, match=r"Labels_lake_Train\.txt, line 2: '-1130179' is neither 0 nor 1.*AllLabels"):
        load("nus_wide", photos, say=said)


def test_photos_that_have_gone_are_left_out(photos, said):
    (photos / "Flickr" / "actor" / "0013_113.jpg").unlink()
    assert len(load("nus_wide", photos, say=said).images) == 11
    assert "1 of 14 photos are not in" in said
    shutil.rmtree(photos / "Flickr" / "actor")
    with pytest.raises(UserError, match="none of 14 photos is there"):
        load("nus_wide", photos, say=said)


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        (
            "ImageList/TrainImagelist.txt",
            "..\\..\\secret.jpg",
            r"TrainImagelist\.txt, line 2: '\.\./\.\./secret\.jpg' leads",
        ),
        ("ImageList/Imagelist.txt", "/etc/passwd", r"Imagelist\.txt, line 2: '/etc/passwd' leads out of"),
        ("ImageList/TestImagelist.txt", "C:\\x.jpg", r"line 2: 'C:/x\.jpg' leads out of"),
        ("ImageList/TestImagelist.txt", "", r"line 2: '' leads out of"),
        ("ImageList/TestImagelist.txt", "actor\\none.jpg", r"line 2: 'actor/none\.jpg' is not in Imagelist\.txt"),
        ("NUS_WID_Tags/All_Tags.txt", "999 tag", r"All_Tags\.txt, line 2: tags of the photo '999', but"),
        ("NUS_WID_Tags/All_Tags.txt", None, r"All_Tags\.txt: has 13 lines, Imagelist\.txt has 14"),
        ("Groundtruth/AllLabels/Labels_sky.txt", "2", r"Labels_sky\.txt, line 2: '2' is neither 0 nor 1"),
        ("Groundtruth/AllLabels/Labels_sky.txt", None, r"Labels_sky\.txt: has 13 lines, the list has 14 images"),
    ],
)
def test_a_bad_line_is_named(photos, file, line, message):
    lines = (photos / file).read_text().splitlines()
    (photos / file).write_text("\n".join([lines[0], *([] if line is None else [line]), *lines[2:]]) + "\n")
    with pytest.raises(UserError, match=message):
        load("nus_wide", photos)


def test_what_is_missing_is_named(photos, tmp_path):
    with pytest.raises(UserError, match=r"no TrainImagelist\.txt .*Unpack ImageList\.zip there"):
        load("nus_wide", tmp_path / "gone")
    with pytest.raises(UserError, match=r"classes=4: must be from 1 to 3"):
        load("nus_wide", photos, classes=4)
    with pytest.raises(UserError, match="dataset nus_wide has no option 'seed'"):
        load("nus_wide", photos, seed=1)
    for path in (photos / "Groundtruth" / "AllLabels").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"AllLabels: no labels, as Labels_sky\.txt"):
        load("nus_wide", photos)
