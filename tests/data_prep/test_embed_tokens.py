"""Words and cells in an embedding set: whole, of this encoder, resumed after an interruption, or an error."""

import json
import shutil

import numpy as np
import pytest

from data_prep import embed_tokens as module
from data_prep.embed import embed
from data_prep.embed_tokens import embed_tokens
from data_prep.importing_tokens import import_tokens
from data_prep.local import LocalEncoder
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.tokens import Tokens
from rank_xmodal.errors import UserError


@pytest.fixture
def made(corpus, encoder, tmp_path, said):
    return embed(corpus, encoder, tmp_path / "set", say=said)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "_SHARD", 4)


def test_tokens_stand_beside_the_embeddings(corpus, encoder, made, said):
    local = LocalEncoder(encoder, "values")
    whole = embed_tokens(corpus, local, made, batch_size=3, say=said)
    tokens = Tokens.open(whole)
    assert tokens.image.shape == (len(made.images), 4, encoder.dim)
    assert tokens.facts["grid"] == [2, 2]
    assert tokens.facts["path"] == "values"
    texts = made.texts["text"].tolist()
    found = local.texts(texts)
    words, inside = tokens.words(np.arange(len(texts)))
    assert inside.sum(1).tolist() == [len(part) for part in found.parts]
    assert tokens.longest == inside.shape[1]
    for row, part in enumerate(found.parts):
        np.testing.assert_allclose(words[row][inside[row]], part.numpy(), atol=2e-3)
        assert (words[row][~inside[row]] == 0).all()
    assert "MB" in said
    assert [path.name for path in made.root.parent.iterdir() if path.name.startswith(".set")] == []
    embed_tokens(corpus, local, whole, say=said)
    assert "already holds these tokens" in said
    assert whole.fingerprint == made.fingerprint, "lists and runs of the set stay good"


def test_interrupted_it_goes_on_and_ends_in_the_same_bytes(corpus, encoder, made, tmp_path, said, monkeypatch):
    shutil.copytree(made.root, tmp_path / "whole")
    local, calls = LocalEncoder(encoder), []
    embed_tokens(corpus, local, EmbeddingSet.open(tmp_path / "whole"), batch_size=4, say=said)
    real = LocalEncoder.images

    def counting(self, pixels, names):
        calls.append(len(names))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, pixels, names)

    monkeypatch.setattr(LocalEncoder, "images", counting)
    with pytest.raises(KeyboardInterrupt):
        embed_tokens(corpus, local, made, batch_size=4, say=said)
    assert EmbeddingSet.open(made.root).meta.get("tokens") is None
    shard = next((tmp_path / ".set.tokens").glob("image-*.safetensors"))
    embed_tokens(corpus, local, made, batch_size=4, say=said)
    assert sum(calls) == 4 + 4 + 6, "what was encoded is not encoded again"
    assert not shard.exists()
    for name in ("image_tokens.npy", "text_tokens.npy", "text_offsets.npy"):
        assert (made.root / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_tokens_of_another_encoder_are_refused(corpus, encoder, made, said):
    other = LocalEncoder(encoder)
    real = other._image
    other._image = lambda pixels: (-real(pixels)[0], real(pixels)[1])
    with pytest.raises(UserError, match=r"pooled to is .* off the embeddings: another encoder or precision"):
        embed_tokens(corpus, other, made, say=said)
    assert EmbeddingSet.open(made.root).meta.get("tokens") is None


def test_a_full_disk_is_told_before_it_starts(corpus, encoder, made, said, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 1))
    with pytest.raises(UserError, match="the disk has less"):
        embed_tokens(corpus, LocalEncoder(encoder), made, say=said)


def test_damaged_and_missing_tokens_are_told(corpus, encoder, made, said):
    with pytest.raises(UserError, match=r"has no tokens\. Make them with"):
        Tokens.open(made)
    whole = embed_tokens(corpus, LocalEncoder(encoder), made, say=said)
    image = np.load(whole.root / "image_tokens.npy")
    np.save(whole.root / "image_tokens.npy", image[::-1].copy())
    with pytest.raises(UserError, match="its tokens are damaged"):
        Tokens.open(whole)
    np.save(whole.root / "image_tokens.npy", image[:-1])
    with pytest.raises(UserError, match=r"image_tokens.npy is \(9, 4, 32\)"):
        Tokens.open(whole)
    (whole.root / "image_tokens.npy").unlink()
    with pytest.raises(UserError, match="no such file"):
        Tokens.open(whole)


@pytest.fixture
def arrays(made, tmp_path):
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 5, len(made.texts))
    values = {
        "image": rng.normal(size=(len(made.images), 3, 8)).astype(np.float32),
        "text": rng.normal(size=(int(counts.sum()), 8)),
        "offsets": np.concatenate([[0], np.cumsum(counts)]),
    }
    paths = {name: tmp_path / f"{name}.npy" for name in values}
    for name, value in values.items():
        np.save(paths[name], value)
    return values, paths


def test_tokens_made_elsewhere_are_brought_to_length_1(made, arrays):
    values, paths = arrays
    tokens = Tokens.open(import_tokens(made, *paths.values()))
    expected = values["image"] / np.linalg.norm(values["image"], axis=-1, keepdims=True)
    np.testing.assert_allclose(tokens.image, expected, atol=1e-3)
    assert (tokens.offsets == values["offsets"]).all()
    assert json.loads((made.root / "meta.json").read_text())["tokens"]["cells"] == 3


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("image", lambda a: a[:-1], "has 9 rows, the set has 10 images"),
        ("image", lambda a: a[:, :, :5], "is 5 wide, .* is 8 wide"),
        ("image", lambda a: a.astype(np.int64), "expected floats"),
        ("image", lambda a: np.where(np.arange(10)[:, None, None] == 2, 0, a), "row 2, 0 is zero or not finite"),
        ("text", lambda a: np.where(np.arange(len(a))[:, None] == 4, np.nan, a), "row 4 is zero or not finite"),
        ("text", lambda a: a[:-1], "must rise from 0 to"),
        ("offsets", lambda a: a[:-1], "one more than there are captions"),
        ("offsets", lambda a: np.where(np.arange(len(a)) == 2, a[1], a), "with a word for each caption; see row 1"),
        ("offsets", lambda a: a.astype(float), "whole numbers"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(made, arrays, name, change, what):
    values, paths = arrays
    np.save(paths[name], change(values[name]))
    with pytest.raises(UserError, match=what):
        import_tokens(made, *paths.values())
    assert EmbeddingSet.open(made.root).meta.get("tokens") is None
