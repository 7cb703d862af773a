import os
import resource
from dataclasses import replace

import numpy as np
import pytest

from data_prep.embed import embed
from data_prep.images import files_digest
from data_prep.partial import Partial
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.image_files import image_files
from rank_xmodal.errors import UserError


class Counting:
    """An encoder that counts what it encodes, and can stop before a given batch."""

    def __init__(self, inner, stop_at=None, error=KeyboardInterrupt):
        self.inner, self.images, self.texts, self.stop_at, self.error, self.calls = inner, [], [], stop_at, error, 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def _count(self):
        self.calls += 1
        if self.calls == self.stop_at:
            raise self.error

    def encode_pixels(self, pixels, names):
        self._count()
        self.images += [os.path.basename(name) for name in names]
        return self.inner.encode_pixels(pixels, names)

    def encode_texts(self, texts, batch_size=64):
        self._count()
        self.texts += texts
        return self.inner.encode_texts(texts, batch_size)


def test_the_set_holds_the_corpus(corpus, encoder, tmp_path, said):
    written = embed(corpus, encoder, tmp_path / "set", batch_size=4, workers=2, say=said)
    opened = EmbeddingSet.open(tmp_path / "set")
    assert opened.fingerprint == written.fingerprint
    paths = [corpus.image_root / name for name in corpus.images["path"]]
    assert np.abs(opened.image_emb - encoder.encode_images(paths)).max() < 1e-3
    assert np.abs(opened.text_emb - encoder.encode_texts(list(corpus.texts["text"]))).max() < 1e-3
    assert opened.images["path"].tolist() == corpus.images["path"].tolist()
    assert image_files(opened) == [str(path.resolve()) for path in paths]
    assert opened.relevance.equals(corpus.relevance)
    assert opened.meta["weights_sha256"] == encoder.sha256
    assert opened.meta["weights_file"] == encoder.weights_file
    for key, value in {
        "name": "set",
        "encoder": "tiny-test",
        "pretrained": "tiny.safetensors",
        "dataset": "made",
    }.items():
        assert opened.meta[key] == value
    assert "images: 10 encoded" in said
    assert "captions: 20 encoded" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos", "set"]  # nothing left over


@pytest.mark.parametrize("stop_at", [1, 2, 3, 4, 6, 8])
def test_interrupted_and_resumed_is_the_same_bits(corpus, encoder, tmp_path, said, stop_at):
    whole = embed(corpus, encoder, tmp_path / "whole", batch_size=4, say=said)
    first = Counting(encoder, stop_at)
    with pytest.raises(KeyboardInterrupt):
        embed(corpus, first, tmp_path / "set", batch_size=4, say=said)
    assert not (tmp_path / "set").exists()
    second = Counting(encoder)
    resumed = embed(corpus, second, tmp_path / "set", batch_size=4, say=said)
    assert resumed.fingerprint == whole.fingerprint
    assert np.array_equal(resumed.image_emb, whole.image_emb)
    assert np.array_equal(resumed.text_emb, whole.text_emb)
    assert not set(first.images) & set(second.images)
    assert not set(first.texts) & set(second.texts)
    assert len(first.images + second.images) == 10
    assert len(first.texts + second.texts) == 20
    assert ("going on" in said) == (stop_at > 1)
    assert not (tmp_path / ".set.partial").exists()


def test_half_a_row_left_by_a_kill_is_cut_off(corpus, encoder, tmp_path, said):
    with pytest.raises(KeyboardInterrupt):
        embed(corpus, Counting(encoder, 3), tmp_path / "set", batch_size=4, say=said)
    partial = tmp_path / ".set.partial"
    with (partial / "image.f16").open("ab") as handle:
        handle.write(b"x" * 77)  # a row and a bit, without its key
    with (partial / "image.keys").open("r+b") as handle:
        handle.truncate(5 * 20 + 3)  # and keys cut in the sixth
    again = Counting(encoder)
    resumed = embed(corpus, again, tmp_path / "set", batch_size=4, say=said)
    assert again.images == [f"{i}.png" for i in range(5, 10)]
    assert np.abs(resumed.image_emb - embed(corpus, encoder, tmp_path / "whole", say=said).image_emb).max() < 1e-3


def test_a_row_damaged_by_a_loss_of_power_is_encoded_again(corpus, encoder, tmp_path, said):
    with pytest.raises(KeyboardInterrupt):
        embed(corpus, Counting(encoder, 3), tmp_path / "set", batch_size=4, say=said)
    with (tmp_path / ".set.partial" / "image.f16").open("r+b") as handle:
        handle.seek(2 * 2 * encoder.dim)
        handle.write(bytes(2 * encoder.dim))
    again = Counting(encoder)
    resumed = embed(corpus, again, tmp_path / "set", batch_size=4, say=said)
    assert again.images == ["2.png", "8.png", "9.png"]
    assert np.abs(resumed.image_emb - embed(corpus, encoder, tmp_path / "whole", say=said).image_emb).max() < 1e-3


def test_two_at_once_and_what_a_kill_at_the_end_leaves(corpus, encoder, tmp_path, said):
    with (
        Partial(tmp_path / "set", encoder.identity, encoder.dim, said),
        pytest.raises(UserError, match="another process is embedding"),
    ):
        embed(corpus, encoder, tmp_path / "set", say=said)
    embed(corpus, encoder, tmp_path / "set", say=said)
    with Partial(tmp_path / "set", encoder.identity, encoder.dim, said):
        pass  # killed before it was removed
    embed(corpus, encoder, tmp_path / "set", say=said)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_another_encoders_work_is_not_removed_by_a_finished_one(corpus, encoder, tmp_path, said):
    embed(corpus, encoder, tmp_path / "set", say=said)
    other = replace(encoder, sha256="0" * 64)
    with pytest.raises(KeyboardInterrupt):
        embed(corpus, Counting(other, 3), tmp_path / "set", batch_size=4, overwrite=True, say=said)
    embed(corpus, encoder, tmp_path / "set", say=said)
    again = Counting(other)
    embed(corpus, again, tmp_path / "set", batch_size=4, overwrite=True, say=said)
    assert len(again.images) == 2, "the others were encoded before"


def test_a_folder_of_that_name_with_other_things_is_left_alone(corpus, encoder, tmp_path, said):
    (tmp_path / ".set.partial").mkdir()
    ((tmp_path / ".set.partial") / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds 'mine\.txt'"):
        embed(corpus, encoder, tmp_path / "set", say=said)
    assert ((tmp_path / ".set.partial") / "mine.txt").read_text() == "mine"


def test_another_encoder_throws_partial_work_away(corpus, encoder, tmp_path, said):
    with pytest.raises(KeyboardInterrupt):
        embed(corpus, Counting(encoder, 3), tmp_path / "set", batch_size=4, say=said)
    other = replace(encoder, sha256="0" * 64)
    second = Counting(other)
    embed(corpus, second, tmp_path / "set", batch_size=4, say=said)
    assert len(second.images) == 10
    assert "partial work of another weights_sha256 is thrown away" in said


def test_finished_is_reused(corpus, encoder, tmp_path, said):
    first = embed(corpus, encoder, tmp_path / "set", say=said)
    second = Counting(encoder, 1, AssertionError("encoded again"))
    assert embed(corpus, second, tmp_path / "set", say=said).fingerprint == first.fingerprint
    assert "already holds these embeddings" in said


def test_something_else_at_out(corpus, encoder, tmp_path, said):
    embed(corpus, encoder, tmp_path / "set", say=said)
    other = replace(corpus, texts=corpus.texts.assign(text=corpus.texts["text"] + "!"))
    with pytest.raises(UserError, match=r"set: it holds other embeddings \(made, tiny-test.*--overwrite"):
        embed(other, encoder, tmp_path / "set", say=said)
    assert EmbeddingSet.open(tmp_path / "set").texts["text"][0] == "caption number 0"
    embed(other, encoder, tmp_path / "set", overwrite=True, say=said)
    assert EmbeddingSet.open(tmp_path / "set").texts["text"][0] == "caption number 0!"


def test_overwrite_never_deletes_a_folder_of_other_things(corpus, encoder, tmp_path, said):
    with pytest.raises(UserError, match="is no embedding set"):
        embed(corpus, encoder, corpus.image_root, overwrite=True, say=said)
    assert (corpus.image_root / "0.png").is_file()


def test_missing_files_are_all_found_before_encoding(corpus, encoder, tmp_path, said):
    (corpus.image_root / "3.png").unlink()
    (corpus.image_root / "7.png").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"(?s)2 image file.*3\.png \(image_id '3'\) is missing.*7\.png.*empty"
    ) as caught:
        embed(corpus, Counting(encoder, 1, AssertionError("encoded")), tmp_path / "set", say=said)
    assert "leave them out with --skip-broken" in str(caught.value)


def test_text_named_png_is_found_before_encoding(corpus, encoder, tmp_path, said):
    (corpus.image_root / "9.png").write_text("no image")
    with pytest.raises(UserError, match=r"(?s)9\.png \(image_id '9'\) not an image"):
        embed(corpus, Counting(encoder, 1, AssertionError("encoded")), tmp_path / "set", batch_size=2, say=said)


def test_a_truncated_image_keeps_the_work_before_it(corpus, encoder, tmp_path, said, picture):
    path = corpus.image_root / "9.png"
    picture(9, size=(200, 150)).save(path)
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    first = Counting(encoder)
    with pytest.raises(UserError, match=r"9\.png: the image is cut short.*image_id '9', row 9.*kept"):
        embed(corpus, first, tmp_path / "set", batch_size=4, say=said)
    assert not (tmp_path / "set").exists()
    path.write_bytes(good)
    second = Counting(encoder)
    embed(corpus, second, tmp_path / "set", batch_size=4, say=said)
    assert second.images == ["8.png", "9.png"]


def test_a_deleted_row_keeps_the_work_too(corpus, encoder, tmp_path, said):
    with pytest.raises(KeyboardInterrupt):
        embed(corpus, Counting(encoder, 3), tmp_path / "set", batch_size=4, say=said)
    fewer = replace(
        corpus,
        images=corpus.images.iloc[1:].reset_index(drop=True),
        texts=corpus.texts.iloc[2:].reset_index(drop=True),
        relevance=corpus.relevance.iloc[:-2],
    )
    second = Counting(encoder)
    resumed = embed(fewer, second, tmp_path / "set", batch_size=4, say=said)
    assert second.images == ["8.png", "9.png"]
    expected = encoder.encode_images([corpus.image_root / f"{i}.png" for i in range(1, 10)])
    assert np.abs(resumed.image_emb - expected).max() < 1e-3


def test_repeated_captions_are_encoded_once(corpus, encoder, tmp_path, said):
    same = replace(corpus, texts=corpus.texts.assign(text=["a dog", "a cat"] * 10))
    counting = Counting(encoder)
    written = embed(same, counting, tmp_path / "set", say=said)
    assert counting.texts == ["a dog", "a cat"]
    assert np.array_equal(written.text_emb[0::2], np.repeat(written.text_emb[:1], 10, axis=0))
    assert not np.array_equal(written.text_emb[0], written.text_emb[1])


def test_a_full_disk_keeps_the_work(corpus, encoder, tmp_path, said):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    first = Counting(encoder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))  # 32 wide: room for nine rows
    try:
        with pytest.raises(UserError, match=r"the disk is full.*What was encoded before is kept"):
            embed(corpus, first, tmp_path / "set", batch_size=4, say=said, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "set").exists()
    second = Counting(encoder)
    embed(corpus, second, tmp_path / "set", batch_size=4, say=said)
    assert second.images == ["8.png", "9.png"]


def test_labels_are_kept_and_new_ones_are_not_taken_for_the_old(corpus, encoder, tmp_path, said):
    def labelled(name):
        return replace(corpus, images=corpus.images.assign(labels=name), texts=corpus.texts.assign(labels=name))

    embed(corpus, encoder, tmp_path / "set", say=said)
    with pytest.raises(UserError, match="--overwrite"):
        embed(labelled("cat"), encoder, tmp_path / "set", say=said)
    made = embed(labelled("cat"), encoder, tmp_path / "set", overwrite=True, say=said)
    assert set(made.images["labels"]) == set(made.texts["labels"]) == {"cat"}
    assert "nothing to do" not in said
    embed(labelled("cat"), encoder, tmp_path / "set", say=said)
    assert "nothing to do" in said


def test_truncated_captions_are_said_once(corpus, encoder, tmp_path, said):
    long = corpus.texts.assign(text=[f"{i} " + "dog " * 30 if i % 4 == 0 else f"dog {i}" for i in range(20)])
    embed(replace(corpus, texts=long), encoder, tmp_path / "set", batch_size=3, say=said)
    assert [line for line in said.lines if "cut off" in line] == [
        "captions: 5 are longer than tiny-test can read; their ends were cut off"
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: replace(c, images=c.images.assign(image_id="same")), "image_id 'same' occurs twice"),
        (lambda c: replace(c, texts=c.texts.assign(text_id="7")), "text_id '7' occurs twice"),
        (lambda c: replace(c, texts=c.texts.assign(text=[" "] + ["x"] * 19)), "text '0' .*empty caption"),
        (lambda c: replace(c, texts=c.texts.iloc[:0]), "there are no texts"),
    ],
)
def test_a_bad_corpus_is_refused_before_encoding(corpus, encoder, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        embed(change(corpus), Counting(encoder, 1, AssertionError("encoded")), tmp_path / "set")


@pytest.mark.parametrize("setting", [{"batch_size": 0}, {"workers": 0}])
def test_bad_settings(corpus, encoder, tmp_path, setting):
    with pytest.raises(UserError, match="must be 1 or more"):
        embed(corpus, encoder, tmp_path / "set", **setting)


def test_the_files_that_were_read_are_told_by_split(corpus, encoder, tmp_path, said):
    made = embed(corpus, encoder, tmp_path / "set", progress=False, say=said)
    for split, rows in made.images.groupby("split"):
        files = [corpus.image_root / name for name in rows["path"]]
        assert made.meta["image_files"][split] == files_digest(rows["path"], files)
