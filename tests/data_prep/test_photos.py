"""A folder of photos without captions: a corpus to search in, wherever it is moved, and clear words about the rest."""

import os
import shutil
import time

import numpy as np
import pytest

from data_prep.datasets import load
from data_prep.embed import embed
from data_prep.embed_tokens import embed_tokens
from data_prep.local import LocalEncoder
from data_prep.mining.miner import mine
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.image_files import image_files
from rank_xmodal.data.tokens import Tokens
from rank_xmodal.errors import UserError
from rank_xmodal.lists.content import Content
from tests.data_prep.test_embed import Counting


@pytest.fixture
def photos(tmp_path, picture):
    folder = tmp_path / "here/photos"
    for seed, name in enumerate(["a.jpg", "2023/summer/b.png", "2023/c with 'quotes'\n.webp", "d.jpg"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(folder / name)
    return folder


@pytest.fixture
def made(photos, encoder, tmp_path, said):
    return embed(load("folder", photos, say=said), encoder, tmp_path / "here/set", say=said)


def test_the_set_holds_images_and_no_captions(photos, made, encoder, said):
    names = ["2023/c with 'quotes'\n.webp", "2023/summer/b.png", "a.jpg", "d.jpg"]
    assert made.images["image_id"].tolist() == made.images["path"].tolist() == names
    assert image_files(made) == [str(photos / name) for name in names]
    assert made.text_emb.shape == (0, encoder.dim)
    assert made.meta["counts"] == {"test": {"images": 4, "texts": 0}}
    assert np.abs(made.image_emb - encoder.encode_images([photos / name for name in names])).max() < 1e-3
    assert made.candidate_rows("t2i", "test").tolist() == [0, 1, 2, 3]
    assert not any(line.startswith("captions:") for line in said.lines)


def test_what_needs_captions_says_so(made):
    for ask in (
        lambda: made.query_rows("t2i", "test"),
        lambda: made.query_rows("i2t", "test"),
        lambda: made.candidate_rows("i2t", "test"),
        lambda: mine(made, "t2i", "test"),
    ):
        with pytest.raises(UserError, match=r"set: holds images without captions.*captions\.csv"):
            ask()


def test_tokens_of_images_alone(photos, made, encoder, said):
    corpus = load("folder", photos, say=said)
    tokens = Tokens.open(embed_tokens(corpus, LocalEncoder(encoder, "values"), made, say=said))
    assert tokens.image.shape[0] == 4
    assert tokens.offsets.tolist() == [0]


def test_captions_that_were_lost_are_no_corpus_of_images(corpus, encoder, tmp_path, said):
    from dataclasses import replace

    with pytest.raises(UserError, match="there are no texts"):
        embed(replace(corpus, texts=corpus.texts.iloc[:0]), encoder, tmp_path / "set", say=said)


def test_moved_together_the_photos_are_found(made, tmp_path):
    shutil.move(tmp_path / "here", tmp_path / "there")
    data = EmbeddingSet.open(tmp_path / "there/set")
    assert Content.of(data, "t2i").candidates[2] == str(tmp_path / "there/photos/a.jpg")


def test_moved_photos_are_told_by_embedding_again_which_encodes_nothing(photos, made, encoder, tmp_path, said):
    shutil.move(photos, tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"its images are not in .*here/photos.*another --root"):
        image_files(made)
    counting = Counting(encoder, 1, AssertionError("encoded again"))
    again = embed(load("folder", tmp_path / "elsewhere", say=said), counting, made.root, say=said)
    assert image_files(again)[2] == str(tmp_path / "elsewhere/a.jpg")
    assert again.fingerprint == made.fingerprint
    assert f"its images are taken from {tmp_path / 'elsewhere'} from now on" in said
    said.lines.clear()
    embed(load("folder", tmp_path / "elsewhere", say=said), counting, made.root, say=said)
    assert "from now on" not in said


def test_files_elsewhere_keep_their_whole_paths(corpus, encoder, tmp_path, said, picture):
    picture(50).save(tmp_path / "far.png")
    corpus.images.loc[0, "path"] = str(tmp_path / "far.png")
    corpus.images.loc[1, "path"] = str(corpus.image_root / "1.png")
    data = embed(corpus, encoder, tmp_path / "set", say=said)
    assert "image_root" not in data.meta
    assert data.images["path"].tolist() == [
        str(tmp_path / "far.png"), *(str(corpus.image_root / f"{i}.png") for i in range(1, 10))
    ]  # fmt: skip
    assert image_files(data) == data.images["path"].tolist()


def test_whole_paths_in_the_folder_become_relative(corpus, encoder, tmp_path, said):
    corpus.images.loc[1, "path"] = str(corpus.image_root / "1.png")
    assert embed(corpus, encoder, tmp_path / "set", say=said).images["path"][1] == "1.png"


def test_a_page_shows_the_photos_wherever_they_were_moved_until_they_change(made, tmp_path):
    from experiments.report.gallery import own_files

    assert own_files(made, "test")("a.jpg") == tmp_path / "here/photos/a.jpg"
    shutil.move(tmp_path / "here", tmp_path / "there")
    data = EmbeddingSet.open(tmp_path / "there/set")
    assert own_files(data, "test")("a.jpg") == tmp_path / "there/photos/a.jpg"
    (tmp_path / "there/photos/d.jpg").write_bytes(b"another")
    assert own_files(data, "test")("a.jpg") == tmp_path / "there/set/a.jpg", "of the set's own folder, where none is"


def test_photos_that_are_newer_than_their_set_are_told(photos, made, encoder, said, picture):
    corpus = load("folder", photos, say=said)
    embed(corpus, encoder, made.root, say=said)
    assert "newer than it" not in said
    whole = (photos / "a.jpg").read_bytes()
    (photos / "a.jpg").write_bytes(whole[:-2] + b"\xff\xd9")
    os.utime(photos / "a.jpg", (time.time() + 60,) * 2)
    embed(corpus, encoder, made.root, say=said)
    assert f"set: 1 image file(s) are newer than it, {photos / 'a.jpg'} among them." in said
