import unicodedata

import pandas as pd
import pytest

from data_prep.datasets import DATASETS, load
from experiments.cli.data import embed
from rank_xmodal.errors import UserError


@pytest.fixture
def photos(tmp_path, picture):
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for seed, name in enumerate(("a.jpg", "B.JPG", "sub/c.png", "d.jpg"), 1):
        picture(seed).save(folder / name)
    return folder


def put(folder, text):
    (folder / "captions.csv").write_text(text)


def test_columns_and_repeated_images(photos, said):
    put(photos, "image,caption,split,caption_id\na.jpg,one,train,x1\n./a.jpg,two,train,x2\nsub/c.png,three,dev,x3\n")
    corpus = load("folder", photos, say=said)
    assert corpus.name == "photos"
    assert corpus.images.to_dict("list") == {
        "image_id": ["a.jpg", "sub/c.png"],
        "path": ["a.jpg", "sub/c.png"],
        "split": ["train", "val"],
    }
    assert corpus.texts["text_id"].tolist() == ["x1", "x2", "x3"]
    assert corpus.texts["split"].tolist() == ["train", "train", "val"]
    assert corpus.relevance.to_dict("list") == {"image": [0, 0, 1], "text": [0, 1, 2], "grade": [1, 1, 1]}
    assert all(path.is_file() for path in corpus.paths())
    assert said.lines == []


def test_labels_are_those_of_images_and_captions(photos, said):
    put(
        photos,
        "image,caption,split,labels\na.jpg,one,train,animal\n./a.jpg,two,train,animal\nd.jpg,three,test,sea|animal\n",
    )
    corpus = load("folder", photos, say=said)
    assert corpus.images["labels"].tolist() == ["animal", "animal|sea"]
    assert corpus.texts["labels"].tolist() == ["animal", "animal", "animal|sea"]


def test_without_splits_images_are_dealt_out(photos, said):
    put(photos, "image,caption\na.jpg,one\na.jpg,two\nB.JPG,three\nsub/c.png,four\n")
    corpus = load("folder", photos, say=said)
    assert sorted(corpus.images["split"]) == ["test", "train", "val"]
    assert corpus.texts["split"][0] == corpus.texts["split"][1]
    assert "no split column" in said
    assert corpus.images.equals(load("folder", photos, seed=0, say=said).images)


def test_copies_of_a_photo_are_dealt_into_one_split(photos, said, picture):
    names = [f"{i:02d}.png" for i in range(20)]
    for i, name in enumerate(names):
        picture(10 + i).save(photos / name)
        (photos / f"copy of {name}").write_bytes((photos / name).read_bytes())
    other = bytearray((photos / "sub/c.png").read_bytes())
    other[-1] ^= 1
    (photos / "as long.png").write_bytes(other)
    rows = [*names, *(f"copy of {name}" for name in names), "sub/c.png", "as long.png"]
    put(photos, "image,caption\n" + "".join(f"{name},x\n" for name in rows))
    corpus = load("folder", photos, say=said)
    split_of = dict(zip(corpus.images["image_id"], corpus.images["split"], strict=True))
    assert all(split_of[name] == split_of[f"copy of {name}"] for name in names)
    assert corpus.images["split"].value_counts()["train"] in range(33, 37)
    assert "42 images dealt out 80/10/10 (seed 0), 20 of them copies of others, which go with these" in said
    put(photos, "image,caption\n" + "".join(f"{name},x\n" for name in [*rows, "gone.png"]))
    assert load("folder", photos, skip_broken=True, say=said).images["image_id"].tolist()[-1] == "gone.png"


def test_parquet_and_a_captions_file_elsewhere(photos, tmp_path, said):
    path = tmp_path / "my.parquet"
    frame = pd.DataFrame({"image": ["a.jpg", "d.jpg"], "caption": ["x", "y"], "split": ["train", "test"]})
    frame.to_parquet(path)
    corpus = load("folder", tmp_path, captions=path, images=photos, say=said)
    assert corpus.texts["text"].tolist() == ["x", "y"]
    assert corpus.paths() == [photos / "a.jpg", photos / "d.jpg"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "captions.csv: the file is empty"),
        ("image,text\na.jpg,x\n", "no column 'caption'"),
        ("image,caption\na.jpg,x\nd.jpg,\n", r"captions\.csv, line 3: caption is empty"),
        ("image,caption\na.jpg,x\n,y\n", r"captions\.csv, line 3: image is empty"),
        (
            "image,caption\na.jpg,x\nzz.jpg,y\n",
            r"captions\.csv, line 3: image 'zz\.jpg' is not in .*photos.*delete the row",
        ),
        ("image,caption\nb.jpg,x\n", r"line 2: image 'b\.jpg'.*Did you mean 'B\.JPG'"),
        ("image,caption\nq.jpg,x\nr.jpg,y\nr.jpg,y\n", r"line 2: image 'q\.jpg'.*2 images are missing"),
        ("image,caption\na.jpg,x\n../secret.jpg,y\n", r"line 3: image '\.\./secret\.jpg' leads out of .*photos.*link"),
        ("image,caption\nsub/../../secret.jpg,y\n", r"line 2: image .* leads out of"),
        ("image,caption\n/etc/passwd,y\n", r"line 2: image '/etc/passwd' leads out of"),
        (f"image,caption\n{'x' * 300}.jpg,y\n", r"line 2: image 'x+\.jpg' is not in"),
        (f"image,caption\n{'x' * 300}/a.jpg,y\n", r"line 2: image 'x+/a\.jpg' is not in"),
        ("image,caption,caption_id\na.jpg,x,1\nd.jpg,y,1\n", r"line 3: caption_id '1' stands already in line 2"),
        ("image,caption,caption_id\na.jpg,x,1\nd.jpg,y, 1\n", r"line 3: caption_id '1' stands already in line 2"),
        ("image,caption,caption_id\na.jpg,x,\n", r"line 2: caption_id is empty"),
        ("image,caption,split\na.jpg,x,trian\n", r"line 2: split 'trian' must be train"),
        ("image,caption,split\na.jpg,x,train\na.jpg,y,test\n", r"line 3: image 'a\.jpg' is in split 'test' here"),
        ("image,caption\na.jpg,x\n", "1 image.*Add a split column"),
        ("image,caption,split,labels\na.jpg,x,train,\n", r"captions\.csv, line 2: labels is empty"),
        (
            "image,caption,split,labels\na.jpg,x,train,cat\n./a.jpg,y,train,dog\n",
            r"line 3: image 'a\.jpg' has labels 'dog' here and 'cat' in line 2",
        ),
    ],
)
def test_bad_tables(photos, text, message):
    put(photos, text)
    with pytest.raises(UserError, match=message):
        load("folder", photos)


def test_two_tables_or_no_folder(photos, tmp_path):
    put(photos, "image,caption\na.jpg,x\n")
    (photos / "captions.parquet").touch()
    with pytest.raises(UserError, match=r"both captions.csv"):
        load("folder", photos)
    with pytest.raises(UserError, match=r"no such folder.*--root"):
        load("folder", tmp_path / "gone")


def test_the_registry(tmp_path):
    with pytest.raises(UserError, match=r"dataset='mnist': must be one of scenes, flickr30k, coco, folder"):
        load("mnist", tmp_path)
    with pytest.raises(UserError, match="dataset folder has no option 'counts'; it has captions, images, seed, skip_"):
        load("folder", tmp_path, counts={})
    choice = next(option for option in embed.params if option.name == "dataset")
    assert list(choice.type.choices) == list(DATASETS)


def test_links_in_the_folder_may_lead_wherever_its_owner_likes(photos, tmp_path, picture, said):
    (tmp_path / "disk").mkdir()
    picture(2).save(tmp_path / "disk" / "far.jpg")
    (photos / "disk").symlink_to(tmp_path / "disk")
    (photos / "near.jpg").symlink_to(tmp_path / "disk" / "far.jpg")
    put(photos, "image,caption,split\ndisk/far.jpg,x,train\nnear.jpg,y,test\n")
    assert load("folder", photos, say=said).images["path"].tolist() == ["disk/far.jpg", "near.jpg"]


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("labels", [{"a": 1}] * 3, "the column 'labels' holds struct.*must hold text, or lists of it"),
        ("caption", [b"x"] * 3, "the column 'caption' holds binary; it must hold text"),
        ("split", [["train"]] * 3, "the column 'split' holds list"),
    ],
)
def test_columns_of_something_else_are_never_dropped_in_silence(photos, tmp_path, said, column, values):
    table = pd.DataFrame({"image": ["a.jpg", "B.JPG", "d.jpg"], "caption": ["x", "y", "z"], "split": ["train"] * 3})
    table.assign(**{column: pd.Series(values, dtype=object)}).to_parquet(tmp_path / "my.parquet")
    with pytest.raises(UserError, match=said):
        load("folder", photos, captions=tmp_path / "my.parquet", say=lambda line: None)
    table.assign(bytes=b"x", more=[{"a": 1}] * 3).to_parquet(tmp_path / "my.parquet")  # for which nobody asks
    assert len(load("folder", photos, captions=tmp_path / "my.parquet", say=lambda line: None).texts) == 3


def test_without_a_table_all_images_below_become_a_corpus_to_search_in(photos, said):
    (photos / "sub" / "notes.txt").write_text("x")
    corpus = load("folder", photos, say=said)
    assert corpus.images.to_dict("list") == {
        "image_id": ["B.JPG", "a.jpg", "d.jpg", "sub/c.png"],
        "path": ["B.JPG", "a.jpg", "d.jpg", "sub/c.png"],
        "split": ["test"] * 4,
    }
    assert (len(corpus.texts), len(corpus.relevance)) == (0, 0)
    assert all(path.is_file() for path in corpus.paths())
    assert "its 4 images become a corpus to search in, without captions" in said
    assert "left out, as no images: 1 .txt" in said


def test_a_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"holds no images \(\.avif, .*Name their folder with --root"):
        load("folder", tmp_path, say=lambda line: None)


def test_images_that_the_table_names_may_be_missing_where_they_are_to_be_left_out(photos, said):
    put(photos, "image,caption,split\na.jpg,x,train\nzz.jpg,y,test\n")
    with pytest.raises(UserError, match=r"'zz\.jpg' is not in .*--skip-broken"):
        load("folder", photos, say=said)
    assert load("folder", photos, skip_broken=True, say=said).images["path"].tolist() == ["a.jpg", "zz.jpg"]


@pytest.mark.parametrize(("on_disk", "in_table"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_are_found_however_they_are_encoded(photos, said, picture, on_disk, in_table):
    names = {form: unicodedata.normalize(form, "sé/crème.jpg") for form in ("NFC", "NFD")}
    (photos / names[on_disk]).parent.mkdir()
    picture(2).save(photos / names[on_disk])
    put(photos, f"image,caption,split\n{names[in_table]},x,train\n{names[on_disk]},y,train\n")
    for skip in (False, True):
        corpus = load("folder", photos, skip_broken=skip, say=said)
        assert corpus.images["path"].tolist() == [names[on_disk]]
        assert corpus.relevance["image"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("name", "hint"), [("sub\\c.png", r"Did you mean 'sub/c\.png'\?"), ("sub", r"not in \S+/photos\. Bring")]
)
def test_a_missing_image_is_looked_for_as_windows_writes_it_and_among_files_alone(photos, said, name, hint):
    put(photos, f"image,caption,split\n{name},x,train\n")
    with pytest.raises(UserError, match=hint):
        load("folder", photos, say=said)
