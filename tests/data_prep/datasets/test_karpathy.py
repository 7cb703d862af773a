import json

import pytest

from data_prep.datasets import load
from rank_xmodal.errors import UserError


def entry(file, split, captions, start, sub=None):
    sentences = [{"raw": f"caption {start + k} .\n", "sentid": start + k, "tokens": []} for k in range(captions)]
    made = {"filename": file, "split": split, "sentences": sentences, "sentids": []}
    return {**made, "filepath": sub} if sub else made


def put(root, name, entries, sub="", dataset=None):
    root.mkdir(exist_ok=True)
    path = root / sub / f"dataset_{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": entries, "dataset": dataset or name}))


COCO = [
    entry("COCO_val2014_000000000001.jpg", "test", 7, 0, "val2014"),
    entry("COCO_val2014_000000000002.jpg", "restval", 5, 7, "val2014"),
    entry("COCO_train2014_000000000003.jpg", "train", 6, 12, "train2014"),
    entry("COCO_val2014_000000000004.jpg", "val", 5, 18, "val2014"),
]
FLICKR = [entry("10.jpg", "train", 5, 0), entry("11.jpg", "val", 5, 5), entry("12.jpg", "test", 5, 10)]


def images(folder, entries, *, flat=False):
    for item in entries:
        path = folder / ("" if flat else item.get("filepath", "")) / item["filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


@pytest.mark.parametrize("sub", ["", "annotations"])
@pytest.mark.parametrize("folder", ["", "images"])
def test_coco_keeps_five_six_and_seven_captions(tmp_path, sub, folder):
    put(tmp_path, "coco", COCO, sub)
    images(tmp_path / folder, COCO)
    corpus = load("coco", tmp_path)
    assert corpus.name == "coco"
    assert corpus.images["split"].tolist() == ["test", "train", "train", "val"]
    assert corpus.images["image_id"][0] == "COCO_val2014_000000000001"
    assert corpus.images["path"][2] == "train2014/COCO_train2014_000000000003.jpg"
    assert len(corpus.texts) == 23
    assert corpus.relevance.groupby("image").size().tolist() == [7, 5, 6, 5]
    assert corpus.texts["split"].tolist() == ["test"] * 7 + ["train"] * 11 + ["val"] * 5
    assert corpus.texts["text"][22] == "caption 22 ."
    assert corpus.texts["text_id"].tolist() == [str(i) for i in range(23)]
    assert all(path.is_file() for path in corpus.paths())


def test_coco_images_in_one_flat_folder(tmp_path):
    put(tmp_path, "coco", COCO)
    images(tmp_path / "elsewhere", COCO, flat=True)
    corpus = load("coco", tmp_path, images=tmp_path / "elsewhere")
    assert all(path.is_file() for path in corpus.paths())


@pytest.mark.parametrize("folder", ["", "flickr30k-images", "flickr30k_images", "images"])
def test_flickr_layouts(tmp_path, folder):
    put(tmp_path, "flickr30k", FLICKR)
    images(tmp_path / folder, FLICKR)
    corpus = load("flickr30k", tmp_path)
    assert corpus.image_root == tmp_path / folder
    assert corpus.images["image_id"].tolist() == ["10", "11", "12"]
    assert "train 1 images / 5 captions" in corpus.summary()


def test_no_json(tmp_path):
    with pytest.raises(
        UserError, match=r"no dataset_coco\.json \(looked for .*annotations/.*caption_datasets\.zip.*put it at"
    ):
        load("coco", tmp_path)


def test_no_images(tmp_path):
    put(tmp_path, "flickr30k", FLICKR)
    with pytest.raises(
        UserError, match=r"looked for 10\.jpg and others in .*flickr30k-images.*Unpack the Flickr30K images"
    ):
        load("flickr30k", tmp_path)


def test_some_images_missing(tmp_path):
    put(tmp_path, "coco", COCO)
    images(tmp_path, COCO[:1] + COCO[3:])
    with pytest.raises(
        UserError, match=r"2 of the 4 images .*first being val2014/COCO_val2014_000000000002\.jpg.*val2014\.zip"
    ):
        load("coco", tmp_path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "not a dataset file of Karpathy's"),
        ([{**FLICKR[0], "split": "extra"}, *FLICKR[1:]], r"image 0 \(10\.jpg\) has split 'extra'"),
        ([FLICKR[0], {**FLICKR[1], "sentences": []}], "image 1 lacks a filename or sentences"),
        ([FLICKR[0], {"sentences": FLICKR[0]["sentences"]}], "image 1 lacks a filename"),
        ([{**FLICKR[0], "sentences": [{"raw": " \n"}]}], r"image 0 \(10\.jpg\) has an empty caption"),
        ([FLICKR[0], {**FLICKR[1], "filename": "../secret.jpg"}], r"image 1 \('\.\./secret\.jpg'\) leads out"),
        ([{**FLICKR[0], "filepath": "/etc"}], r"image 0 \('/etc/10\.jpg'\) leads out of the image folder"),
        ([FLICKR[0], {**FLICKR[1], "filename": "x" * 300}], "1 of the 2 images .* are not there"),
        ([FLICKR[0], FLICKR[0]], "file name '10' stands there twice"),
        ([FLICKR[0], entry("11.jpg", "val", 5, 4)], "sentid '4' stands there twice"),
    ],
)
def test_a_broken_file(tmp_path, entries, message):
    put(tmp_path, "flickr30k", entries)
    images(tmp_path, FLICKR)
    with pytest.raises(UserError, match=message):
        load("flickr30k", tmp_path)


def test_the_other_datasets_file(tmp_path):
    put(tmp_path, "flickr30k", FLICKR, dataset="flickr8k")
    with pytest.raises(UserError, match="it says it is 'flickr8k'"):
        load("flickr30k", tmp_path)
    (tmp_path / "dataset_flickr30k.json").write_text('{"images": [')
    with pytest.raises(UserError, match="not valid JSON"):
        load("flickr30k", tmp_path)


def test_missing_images_may_be_left_out_later(tmp_path):
    put(tmp_path, "coco", COCO)
    images(tmp_path, COCO[1:])
    with pytest.raises(UserError, match=r"1 of the 4 images .* are not there.*--skip-broken"):
        load("coco", tmp_path)
    assert len(load("coco", tmp_path, skip_broken=True).images) == 4
