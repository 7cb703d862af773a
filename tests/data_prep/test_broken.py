"""Image files that can't be used: an error that names the way out, or left out, and the set is that of the rest."""

import os
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from data_prep.datasets import load
from data_prep.embed import embed
from data_prep.embed_tokens import embed_tokens
from data_prep.local import LocalEncoder
from experiments.cli.main import cli
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.tokens import Tokens
from rank_xmodal.errors import UserError
from tests.data_prep.test_embed import Counting

BAD = [1, 4, 6, 9]


@pytest.fixture
def damaged(corpus, picture):
    """Break four of ten images: missing, empty, no image, and cut short, which only decoding finds."""
    folder = corpus.image_root
    (folder / "1.png").unlink()
    (folder / "4.png").write_bytes(b"")
    (folder / "6.png").write_text("no image")
    picture(9, size=(200, 150)).save(folder / "9.png")
    os.truncate(folder / "9.png", (folder / "9.png").stat().st_size // 2)
    return corpus


def same(one, other):
    """Assert that two sets hold the same, bit for bit."""
    assert one.fingerprint == other.fingerprint
    assert np.array_equal(one.image_emb, other.image_emb)
    assert np.array_equal(one.text_emb, other.text_emb)
    for table in ("images", "texts", "relevance"):
        assert getattr(one, table).equals(getattr(other, table))
    assert one.meta["embed_key"] == other.meta["embed_key"]


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_the_set_is_that_of_the_corpus_without_them(damaged, encoder, tmp_path, said, batch_size):
    rest = embed(damaged.without(BAD), encoder, tmp_path / "rest", batch_size=batch_size, say=said)
    made = embed(damaged, encoder, tmp_path / "set", batch_size=batch_size, skip_broken=True, say=said)
    same(made, rest)
    assert made.meta["skipped"]["images"] == 4
    assert made.meta["skipped"]["captions"] == 8
    assert "made: left out 4 of 10 images, and 8 captions with them:" in said
    for line in (
        r"1.png (image_id '1') is missing",
        "4.png (image_id '4') is an empty file",
        "6.png (image_id '6') not an image",
        "9.png (image_id '9') the image is cut short or damaged",
    ):
        assert line in said
    assert "delete its row" not in said


@pytest.mark.parametrize("stop_at", [1, 2, 3, 4])
def test_interrupted_it_goes_on_to_the_same_bits(damaged, encoder, tmp_path, said, stop_at):
    whole = embed(damaged, encoder, tmp_path / "whole", batch_size=2, skip_broken=True, say=said)
    first, second = Counting(encoder, stop_at), Counting(encoder)
    with pytest.raises(KeyboardInterrupt):
        embed(damaged, first, tmp_path / "set", batch_size=2, skip_broken=True, say=said)
    same(embed(damaged, second, tmp_path / "set", batch_size=2, skip_broken=True, say=said), whole)
    assert not set(first.images) & set(second.images)


def test_again_there_is_nothing_to_do_until_a_file_is_mended(damaged, encoder, tmp_path, said, picture):
    made = embed(damaged, encoder, tmp_path / "set", skip_broken=True, say=said)
    counting = Counting(encoder, 1, AssertionError("encoded again"))
    assert embed(damaged, counting, tmp_path / "set", skip_broken=True, say=said).fingerprint == made.fingerprint
    assert "already holds these embeddings (without 4 broken images); nothing to do" in said
    picture(6).save(damaged.image_root / "6.png")
    with pytest.raises(UserError, match="--overwrite"):
        embed(damaged, encoder, tmp_path / "set", skip_broken=True, say=said)
    again = embed(damaged, encoder, tmp_path / "set", skip_broken=True, overwrite=True, say=said)
    assert len(again.images) == 7


def test_without_the_flag_each_error_names_it(damaged, encoder, tmp_path, said, picture):
    for row, found in (
        (1, r"2 image file.*1\.png.*is missing.*4\.png"),
        (6, r"6\.png.*not an image"),
        (9, r"9\.png.*cut"),
    ):
        with pytest.raises(UserError, match=rf"(?s){found}") as caught:
            embed(damaged, encoder, tmp_path / "set", say=said)
        assert "--skip-broken" in str(caught.value)
        for mended in {row, 4}:
            picture(mended).save(damaged.image_root / f"{mended}.png")
    embed(damaged, encoder, tmp_path / "set", say=said)


def test_all_that_was_left_out_is_named(tmp_path, picture, encoder, said):
    photos = tmp_path / "photos"
    photos.mkdir()
    picture(1).save(photos / "good.png")
    for i in range(103):
        (photos / f"bad {i:03d}.png").write_text("no image")
    embed(load("folder", photos, say=said), encoder, tmp_path / "set", skip_broken=True, say=said)
    assert sum("bad " in line for line in said.lines) == 100
    assert "... and 3 more" in said


def test_where_none_can_be_used(corpus, encoder, tmp_path, said):
    for path in corpus.paths():
        path.write_text("no image")
    with pytest.raises(UserError, match=r"(?s)none of the 10 image files can be used.*and 5 more"):
        embed(corpus, encoder, tmp_path / "set", skip_broken=True, say=said)
    assert not (tmp_path / "set").exists()


def test_a_file_that_vanishes_while_others_are_read(corpus, encoder, tmp_path, said):
    class Vanishing(Counting):
        def load_image(self, path):
            if path.name == "5.png":
                path.unlink(missing_ok=True)
            return self.inner.load_image(path)

    with pytest.raises(UserError, match=r"5\.png: no such image.*--skip-broken"):
        embed(corpus, Vanishing(encoder), tmp_path / "set", say=said)
    made = embed(corpus, encoder, tmp_path / "set", skip_broken=True, say=said)
    assert made.images["image_id"].tolist() == [str(i) for i in range(10) if i != 5]


def test_two_rows_of_one_broken_file_are_both_left_out(corpus, encoder, tmp_path, said):
    corpus.images.loc[[2, 3], "path"] = "9.png"
    (corpus.image_root / "9.png").write_text("no image")
    made = embed(corpus, encoder, tmp_path / "set", skip_broken=True, say=said)
    assert made.images["image_id"].tolist() == ["0", "1", "4", "5", "6", "7", "8"]


def test_tokens_are_those_of_the_rest(damaged, encoder, tmp_path, said):
    local = LocalEncoder(encoder, "values")
    made = embed_tokens(damaged, local, embed(damaged, encoder, tmp_path / "set", skip_broken=True, say=said), say=said)
    rest = damaged.without(BAD)
    whole = embed_tokens(rest, local, embed(rest, encoder, tmp_path / "rest", say=said), say=said)
    one, other = Tokens.open(made), Tokens.open(whole)
    assert np.array_equal(one.image, other.image)
    assert np.array_equal(one.text, other.text)


def test_one_good_photo_and_three_broken_ones_without_captions(damaged, encoder, tmp_path, said):
    photos = tmp_path / "few"
    photos.mkdir()
    for name in ("0.png", "4.png", "6.png", "9.png"):
        shutil.copy(damaged.image_root / name, photos / f"ü '{name}")
    made = embed(load("folder", photos, say=said), encoder, tmp_path / "set", skip_broken=True, say=said)
    assert made.images["image_id"].tolist() == ["ü '0.png"]
    assert len(made.texts) == 0
    assert "few: left out 3 of 4 images:" in said


def test_on_the_command_line(damaged, encoder, tmp_path):
    table = "".join(f"{i}.png,photo {i},{'test' if i > 7 else 'train'}\n" for i in range(10))
    (damaged.image_root / "captions.csv").write_text(f"image,caption,split\n{table}")

    def run(*words):
        given = ("--dataset", "folder", "--root", damaged.image_root, "--out", tmp_path / "set", "--device", "cpu",
                 "--model", "tiny-test", "--pretrained", encoder.weights_file)  # fmt: skip
        return CliRunner().invoke(cli, ["embed", *map(str, (*given, *words))])

    assert "--skip-broken" in str(run().exception)
    for words in ((), ("--tokens", "values")):
        done = run("--skip-broken", *words)
        assert done.exit_code == 0, done.output
    data = EmbeddingSet.open(tmp_path / "set")
    assert data.meta["skipped"]["images"] == data.meta["skipped"]["captions"] == 4
    assert len(Tokens.open(data).image) == 6
