"""Image datasets as Hugging Face keeps them: Parquet files that hold the images."""

import io
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from data_prep.datasets import load
from data_prep.embed import embed
from data_prep.images import read_image
from experiments.cli.main import cli
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.image_files import image_files
from rank_xmodal.errors import UserError


@pytest.fixture
def data_of(picture):
    """Return a function from a seed to the bytes of a PNG or JPEG."""

    def make(seed, kind="PNG"):
        buffer = io.BytesIO()
        picture(seed).save(buffer, kind)
        return buffer.getvalue()

    return make


def put(path, images, group=2, **columns):
    """Write a Parquet file whose images are bytes, or pairs of bytes and path."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    if images and isinstance(images[0], bytes):
        column = pa.array(images, pa.binary())
    else:
        column = pa.array([{"bytes": image, "path": name} for image, name in images], kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": column, **columns}), path, row_group_size=group)


@pytest.fixture
def hub(tmp_path, data_of):
    """Return a folder of three files with five images and lists of captions."""
    root = tmp_path / "flickr"
    rows = [("train-00000-of-00002", [0, 1]), ("train-00001-of-00002", [2]), ("validation-00000-of-00001", [3])]
    for name, seeds in [*rows, ("test-00000-of-00001", [4])]:
        put(
            root / "data" / f"{name}.parquet",
            [(data_of(seed), f"cat {seed}.png") for seed in seeds],
            caption=[[f"caption {seed}", f"another {seed}"] for seed in seeds],
            label=[7 for _ in seeds],
        )
    return root


def test_images_captions_and_splits(hub, tmp_path, said, data_of):
    corpus = load("parquet", hub, images=tmp_path / "set.images", say=said)
    assert corpus.name == "flickr"
    assert corpus.images["path"].tolist() == corpus.images["image_id"].tolist() == [
        "data/test-00000-of-00001/000000-cat_4.png",
        "data/train-00000-of-00002/000000-cat_0.png",
        "data/train-00000-of-00002/000001-cat_1.png",
        "data/train-00001-of-00002/000000-cat_2.png",
        "data/validation-00000-of-00001/000000-cat_3.png",
    ]  # fmt: skip
    assert corpus.images["split"].tolist() == ["test", "train", "train", "train", "val"]
    assert [path.read_bytes() for path in corpus.paths()] == [data_of(seed) for seed in (4, 0, 1, 2, 3)]
    assert corpus.texts["text"].tolist()[:3] == ["caption 4", "another 4", "caption 0"]
    assert corpus.texts["text_id"][1] == "data/test-00000-of-00001/000000-cat_4.png#1"
    assert corpus.relevance["image"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert (corpus.images["split"].to_numpy()[corpus.relevance["image"]] == corpus.texts["split"]).all()
    assert "5 of 5 images written into" in said


def test_written_once(hub, tmp_path, said, data_of):
    first = load("parquet", hub, images=tmp_path / "set.images", say=said)
    path = first.paths()[2]
    path.write_bytes(b"x" * path.stat().st_size)  # half of it, by a kill
    first.paths()[3].unlink()
    before = first.paths()[0].stat().st_mtime_ns
    again = load("parquet", hub, images=tmp_path / "set.images", say=said)
    assert "2 of 5 images written into" in said
    assert path.read_bytes() == data_of(1)
    assert again.paths()[0].stat().st_mtime_ns == before
    assert again.images.equals(first.images)


@pytest.mark.parametrize(
    ("name", "tail"),
    [
        ("../../etc/passwd", "-passwd.png"),
        ("/etc/x.jpg", "-x.jpg"),
        ("C:\\a\\b.png", "-b.png"),
        ("..", ".png"),
        (".hidden.png", "-hidden.png"),
        ("ü 日本'\"\n.jpeg", "-ü_日本.jpeg"),
        ("a" * 300 + ".png", "-" + "a" * 50 + ".png"),
        ("日" * 300, "-" + "日" * 50 + ".png"),
        (None, ".png"),
    ],
)
def test_names_lead_nowhere(tmp_path, said, data_of, name, tail):
    put(tmp_path / "x.parquet", [(data_of(0), name)])
    corpus = load("parquet", tmp_path / "x.parquet", images=tmp_path / "out", say=said)
    assert corpus.images["path"].tolist() == [f"x/000000{tail}"]
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        "x.parquet", "extracted.json", f"000000{tail}"
    }  # fmt: skip


def test_plain_bytes_without_captions_are_a_corpus_to_search_in(tmp_path, said, data_of):
    put(tmp_path / "x.parquet", [data_of(0), data_of(1, "JPEG")], group=1)
    corpus = load("parquet", tmp_path / "x.parquet", images=tmp_path / "out", say=said)
    assert corpus.images["path"].tolist() == ["x/000000.png", "x/000001.jpg"]
    assert corpus.images["split"].tolist() == ["test", "test"]
    assert len(corpus.texts) == 0
    assert "no captions, so its 2 images become a corpus to search in" in said


def test_other_columns_of_captions_and_splits(tmp_path, said, data_of):
    images = [(data_of(seed), None) for seed in range(3)]
    put(tmp_path / "x.parquet", images, caption_0=["a", "b", None], caption_1=["c", " ", "d"], text=["no"] * 3,
        split=["train", "dev", "test"])  # fmt: skip
    corpus = load("parquet", tmp_path / "x.parquet", images=tmp_path / "out", say=said)
    assert corpus.texts["text"].tolist() == ["a", "c", "b", "d"]
    assert corpus.relevance["image"].tolist() == [0, 0, 1, 2]
    assert corpus.images["split"].tolist() == ["train", "val", "test"]
    assert "1 empty captions left out" in said
    put(tmp_path / "y.parquet", images, sentences=["a", "b", "c"])
    corpus = load("parquet", tmp_path / "y.parquet", images=tmp_path / "other", say=said)
    assert sorted(corpus.images["split"]) == ["test", "train", "val"]
    assert "3 images dealt out 80/10/10" in said


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=["short", "large", "category"]
)
def test_words_are_read_whatever_wrote_them(tmp_path, said, data_of, kind):
    words = {"caption": pa.array(list("abc"), kind), "split": pa.array(["test", "val", "train"], kind)}
    put(tmp_path / "x.parquet", [data_of(seed) for seed in range(3)], **words)
    corpus = load("parquet", tmp_path / "x.parquet", images=tmp_path / "out", say=said)
    assert corpus.texts["text"].tolist() == list("abc")
    assert corpus.images["split"].tolist() == ["test", "val", "train"]
    assert "dealt out" not in said


def test_rows_of_one_image_are_one_image_with_all_their_captions(tmp_path, said, data_of):
    seeds = [0, 0, 1, 2, 0, 3, 3]
    put(tmp_path / "x.parquet", [data_of(seed) for seed in seeds], caption=["a", "b", "c", "d", "e", "f", None])
    corpus = load("parquet", tmp_path / "x.parquet", images=tmp_path / "out", say=said)
    assert corpus.images["image_id"].tolist() == [f"x/{row:06d}.png" for row in (0, 2, 3, 5)]
    assert [path.read_bytes() for path in corpus.paths()] == [data_of(seed) for seed in range(4)]
    assert corpus.texts["text"].tolist() == list("abcdef")
    assert corpus.texts["text_id"].tolist()[:2] == ["x/000000.png#0", "x/000000.png#1"]
    assert corpus.relevance["image"].tolist() == [0, 0, 1, 2, 0, 3]
    assert (corpus.images["split"].to_numpy()[corpus.relevance["image"]] == corpus.texts["split"]).all()
    assert "7 rows hold 4 different images" in said


def test_an_image_stays_in_both_splits_that_a_dataset_has_it_in(tmp_path, said, data_of):
    put(tmp_path / "x.parquet", [data_of(0)] * 3, caption=list("abc"), split=["train", "test", "train"])
    corpus = load("parquet", tmp_path / "x.parquet", images=tmp_path / "out", say=said)
    assert corpus.images["split"].tolist() == ["train", "test"]
    assert corpus.relevance["image"].tolist() == [0, 1, 0]


def test_hidden_files_are_no_part_of_a_dataset(hub, tmp_path, said, data_of):
    put(hub / ".cache/train-00000-of-00002.parquet", [data_of(8)])
    (hub / "data/._train-00000-of-00002.parquet").write_bytes(b"what macOS writes beside a file")
    (hub / "data/test-00000-of-00001.parquet").rename(hub / "data/TEST-00000-of-00001.PARQUET")
    corpus = load("parquet", hub, images=tmp_path / "out", say=said)
    assert corpus.images["split"].tolist() == ["test", "train", "train", "train", "val"]


def test_images_that_are_named_and_not_there(tmp_path, said, data_of):
    put(tmp_path / "x.parquet", [(None, "cats/1.jpg"), (None, "cats/2.jpg")], caption=["a", "b"])
    with pytest.raises(UserError, match=r"x\.parquet: names images, 'cats/2\.jpg' among them, and holds none\. Save"):
        load("parquet", tmp_path / "x.parquet", images=tmp_path / "out", say=said)
    put(tmp_path / "y.parquet", [(data_of(0), "1"), (None, "2"), (None, "3")], split=["train"] * 3)
    load("parquet", tmp_path / "y.parquet", images=tmp_path / "other", say=said)
    assert "1 of 3 images written into" in said
    assert "0 were there" in said
    assert "2 rows hold no image" in said


def test_broken_images_are_left_out_as_of_any_corpus(tmp_path, said, data_of, encoder):
    rows = [(data_of(0), "a"), (None, "b"), (b"", "c"), (b"no image", "d"), (data_of(1)[:60], "e")]
    put(tmp_path / "x.parquet", rows, text=list("vwxyz"))
    corpus = load("parquet", tmp_path / "x.parquet", images=tmp_path / "out", seed=0, say=said)
    with pytest.raises(UserError, match="--skip-broken"):
        embed(corpus, encoder, tmp_path / "set", say=said)
    made = embed(corpus, encoder, tmp_path / "set", skip_broken=True, say=said)
    assert made.images["image_id"].tolist() == ["x/000000-a.png"]
    assert made.texts["text"].tolist() == ["v"]


def bad_split(root):
    frame = pq.read_table(root / "data/test-00000-of-00001.parquet")
    pq.write_table(frame.append_column("split", pa.array(["tset"])), root / "data/test-00000-of-00001.parquet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (bad_split, r"test-00000-of-00001\.parquet, row 0: split 'tset' must be train, val"),
        (
            lambda root: (root / "data/train-00001-of-00002.parquet").write_bytes(b"x" * 50),
            r"train-00001.*not a readable",
        ),
        (lambda root: os.truncate(root / "data/train-00001-of-00002.parquet", 60), r"train-00001.*not a readable"),
        (
            lambda root: (root / "data/test-00000-of-00001.parquet").rename(root / "data/more.parquet"),
            r"nothing tells the split of 'data/more/000000-cat_4\.png'",
        ),
        (
            lambda root: pd.DataFrame({"a": [1]}).to_parquet(root / "b.parquet"),
            r"b\.parquet: no column 'image'.*a \(int64",
        ),
        (
            lambda root: put(root / "c.parquet", [b"x"], split=[1]),
            r"c\.parquet: the column 'split' holds int64; it must hold train, val or test",
        ),
        (
            lambda root: put(root / "c.parquet", [(b"x", "")], caption=[{"raw": "x"}]),
            r"c\.parquet: the column 'caption' holds struct.*; captions must be strings",
        ),
    ],
)
def test_what_cannot_be_read_is_named(hub, tmp_path, change, message):
    change(hub)
    with pytest.raises(UserError, match=message):
        load("parquet", hub, images=tmp_path / "out", say=lambda line: None)


def test_the_folder_of_the_images_is_nobody_elses(hub, tmp_path, data_of):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("x")
    with pytest.raises(UserError, match=r"mine: holds other files. Move it away"):
        load("parquet", hub, images=tmp_path / "mine", say=lambda line: None)
    load("parquet", hub, images=tmp_path / "out", say=lambda line: None)
    put(tmp_path / "x.parquet", [data_of(0)])
    with pytest.raises(UserError, match=r"out: holds images of .*flickr\. Move it away"):
        load("parquet", tmp_path / "x.parquet", images=tmp_path / "out", say=lambda line: None)
    with pytest.raises(UserError, match="no Parquet file"):
        load("parquet", tmp_path / "mine", images=tmp_path / "none", say=lambda line: None)
    assert not (tmp_path / "none").exists()


def test_on_the_command_line(hub, encoder, tmp_path):
    words = ("--dataset", "parquet", "--root", hub, "--out", tmp_path / "set", "--model", "tiny-test", "--pretrained",
             encoder.weights_file, "--device", "cpu")  # fmt: skip
    done = CliRunner().invoke(cli, ["embed", *map(str, words)])
    assert done.exit_code == 0, done.output
    data = EmbeddingSet.open(tmp_path / "set")
    assert data.meta["image_root_relative"] == "../set.images"
    assert image_files(data)[0].startswith(str(tmp_path / "set.images/data/test-"))
    expected = encoder.encode_images([read_image(path) for path in image_files(data)])
    assert np.abs(data.image_emb - expected).max() < 1e-3
