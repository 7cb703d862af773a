"""Words and cells in an embedding set: whole, of this encoder, resumed after an interruption, or an error."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from data_prep import embed_tokens as module
from data_prep.embed import embed
from data_prep.embed_tokens import embed_tokens
from data_prep.encoder import load_encoder
from data_prep.importing_tokens import import_tokens
from data_prep.local import LocalEncoder
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.tokens import Tokens, write_tokens
from rank_xmodal.errors import UserError
from rank_xmodal.lists.bags import TokenTable
from rank_xmodal.parallel import Serial
from rank_xmodal.training.crossfit import inner_folds


@pytest.fixture
def made(corpus, encoder, tmp_path, said):
    return embed(corpus, encoder, tmp_path / "set", say=said)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "_BATCHES", 1)


def test_tokens_stand_beside_the_embeddings(corpus, encoder, made, said):
    local = LocalEncoder(encoder, "values")
    whole = embed_tokens(corpus, local, made, batch_size=3, say=said)
    tokens = Tokens.open(whole)
    assert tokens.image.shape == (len(made.images), 4, encoder.dim)
    assert tokens.facts["grid"] == [2, 2]
    assert tokens.facts["path"] == "values"
    texts = made.texts["text"].tolist()
    found = local.texts(texts)
    bag = TokenTable.of_texts(tokens.text, tokens.offsets).take(torch.arange(len(texts)))
    words, inside = bag.values.numpy(), bag.mask.numpy()
    assert inside.sum(1).tolist() == [len(part) for part in found.parts]
    assert np.diff(tokens.offsets).max() == inside.shape[1]
    for row, part in enumerate(found.parts):
        np.testing.assert_allclose(words[row][inside[row]], part.numpy(), atol=2e-3)
        assert (words[row][~inside[row]] == 0).all()
    assert "MB" in said
    assert [path.name for path in made.root.parent.iterdir() if path.name.startswith(".set")] == []
    embed_tokens(corpus, local, whole, say=said)
    assert "already holds these tokens" in said
    assert whole.fingerprint == made.fingerprint, "lists and runs of the set stay good"


@pytest.fixture(scope="module")
def uneven(tmp_path_factory, open_clip):
    """Return an encoder whose towers are of two widths."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("uneven")
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64}
    text = {"context_length": 16, "vocab_size": 49408, "width": 48, "heads": 2, "layers": 1}
    config = folder / "tokens-uneven.json"
    config.write_text(json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    model = open_clip.create_model("tokens-uneven")
    save_file({k: v.contiguous() for k, v in model.state_dict().items() if k != "attn_mask"}, folder / "w.safetensors")
    return load_encoder(str(config), str(folder / "w.safetensors"), "cpu", say=lambda line: None)


def test_features_keep_their_two_widths_and_their_lengths(corpus, uneven, tmp_path, said):
    made = embed(corpus, uneven, tmp_path / "set", say=said)
    local = LocalEncoder(uneven, "features")
    tokens = Tokens.open(embed_tokens(corpus, local, made, batch_size=3, say=said))
    assert tokens.dims == (local.image_width, local.text_width) == (128, 48)
    assert tokens.cells == 16
    assert not tokens.normalised
    facts = dict(tokens.facts)
    assert len(facts.pop("fingerprint")) == 64
    assert facts == {
        "tower": "resnet", "layer": "stage 3", "path": "features", "grid": [4, 4], "normalised": False, "cells": 16,
        "image_width": 128, "text_width": 48,
    }  # fmt: skip
    cells = local.images(torch.stack([uneven.load_image(path) for path in corpus.paths()]), corpus.paths()).parts
    np.testing.assert_allclose(tokens.image, torch.stack(cells).numpy(), rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(
        tokens.text, torch.cat(local.texts(made.texts["text"].tolist()).parts).numpy(), rtol=2e-3, atol=1e-3
    )
    bag = TokenTable.of_texts(tokens.text, tokens.offsets).take(torch.tensor([3]))
    assert bag.values.shape == (1, int(bag.mask.sum()), 48)
    size = 2 * (tokens.image.size + tokens.text.size)
    assert f"10 images x 16 cells, 128 wide, {len(tokens.text)} words, 48 wide: {size / 1e6:,.1f} MB" in said


def test_the_room_that_features_take_is_asked_for(corpus, uneven, tmp_path, said, monkeypatch):
    made = embed(corpus, uneven, tmp_path / "set", say=said)
    local = LocalEncoder(uneven, "features")
    words = local.count_words(made.texts["text"].tolist())
    needed = 2 * 2 * (10 * 16 * 128 + words * 48)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, needed - 1))
    with pytest.raises(UserError, match="the disk has less"):
        embed_tokens(corpus, local, made, say=said)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, needed))
    embed_tokens(corpus, local, made, say=said)


def test_tokens_of_another_path_are_replaced(corpus, uneven, tmp_path, said):
    made = embed(corpus, uneven, tmp_path / "set", say=said)
    for path, width in (("values", 32), ("features", 128), ("values", 32)):
        made = embed_tokens(corpus, LocalEncoder(uneven, path), made, say=said)
        assert Tokens.open(made).dims[0] == width
        assert Tokens.open(made).normalised == (path == "values")
    assert "already holds these tokens" not in said


def test_tokens_that_say_nothing_of_their_length_are_of_length_1(corpus, encoder, made, said):
    """Sets of earlier versions say one width."""
    whole = embed_tokens(corpus, LocalEncoder(encoder, "values"), made, say=said)
    path = whole.root / "meta.json"
    meta = json.loads(path.read_text())
    told = meta["tokens"]
    del told["normalised"], told["image_width"], told["text_width"]
    path.write_text(json.dumps({**meta, "tokens": {**told, "width": 32}}))
    older = EmbeddingSet.open(whole.root)
    assert Tokens.open(older).normalised
    assert Tokens.open(older).dims == (32, 32)
    embed_tokens(corpus, LocalEncoder(encoder, "values"), older, say=said)
    assert "already holds these tokens" in said
    path.write_text(json.dumps({**meta, "tokens": {**told, "width": 31}}))
    with pytest.raises(UserError, match=r"are 32 and 32 wide, meta\.json says 31 and 31"):
        Tokens.open(EmbeddingSet.open(whole.root))


def test_a_part_of_a_set_has_the_tokens_of_the_whole(corpus, encoder, made, said):
    whole = embed_tokens(corpus, LocalEncoder(encoder, "features"), made, say=said)
    parts = [part for fold in inner_folds(whole, 2) for part in fold]
    assert len(parts) == 4
    for part in parts:
        assert part.root is None
        tokens = Tokens.open(part)
        assert len(tokens.image) == len(part.images)
        assert tokens.facts == Tokens.open(whole).facts
    with pytest.raises(UserError, match="has no tokens"):
        Tokens.open(next(inner_folds(EmbeddingSet.open(_without(whole)), 2))[0])


def _without(data):
    path = data.root / "meta.json"
    meta = json.loads(path.read_text())
    del meta["tokens"]
    path.write_text(json.dumps(meta))
    return data.root


@pytest.mark.parametrize(
    ("normalised", "value", "what"),
    [(True, 0.5, r"text_tokens.npy: token 3 is of length .*, not 1"), (True, np.nan, "token 3 is not finite"),
     (False, np.inf, r"text_tokens.npy: token 3 is not finite in float16"), (False, 0.5, None)],
)  # fmt: skip
def test_what_is_written_is_looked_at(made, normalised, value, what):
    count = len(made.texts)
    cells, words = np.zeros((len(made.images), 2, 4), np.float16), np.zeros((count, 3), np.float16)
    cells[..., 0] = words[:, 1] = 1
    words[3, 1] = value
    facts = {"tower": "import", "layer": None, "path": None, "grid": None, "normalised": normalised}

    def write():
        blocks = iter([words[:2], words[2:]])
        return write_tokens(made, [cells], blocks, np.arange(count + 1), (len(cells), 2, 4, 3), facts)

    if what is None:
        tokens = Tokens.open(write())
        assert tokens.dims == (4, 3)
        np.testing.assert_array_equal(tokens.text, words)
    else:
        with pytest.raises(UserError, match=what):
            write()
        assert EmbeddingSet.open(made.root).meta.get("tokens") is None


def test_a_set_names_no_tokens_while_others_take_their_place(corpus, encoder, made, said):
    whole = embed_tokens(corpus, LocalEncoder(encoder), made, say=said)
    before = Tokens.open(whole)
    ends, shape = np.arange(len(made.texts) + 1), (*before.image.shape, 32)
    halved = [np.array(before.image) / 2]
    with pytest.raises(UserError, match=r"of length 0\.5"):
        write_tokens(whole, halved, [], ends, shape, before.facts)
    assert Tokens.open(EmbeddingSet.open(made.root)).facts == before.facts, "nothing was changed yet"

    def broken():
        yield np.array(before.text[:1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tokens(whole, [np.array(before.image)], broken(), ends, shape, before.facts)
    with pytest.raises(UserError, match="has no tokens"):
        Tokens.open(EmbeddingSet.open(made.root))
    again = embed_tokens(corpus, LocalEncoder(encoder), EmbeddingSet.open(made.root), say=said)
    assert Tokens.open(again).facts == before.facts


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


def test_a_worker_that_does_not_see_the_folder_says_so_and_the_old_tokens_stay(
    corpus, encoder, made, said, monkeypatch
):
    class Elsewhere(Serial):
        def map(self, open_, parts, **options):
            return super().map(open_, (replace(one, path=away / one.path.name) for one in parts), **options)

    embed_tokens(corpus, LocalEncoder(encoder, "values"), made, say=said)
    whole, away = EmbeddingSet.open(made.root), made.root.parent / "another-machine"
    with pytest.raises(UserError, match=r"another-machine: a worker doesn't see this folder.*all machines share"):
        embed_tokens(corpus, LocalEncoder(encoder, "last"), whole, say=said, executor=Elsewhere())
    assert not away.exists()
    assert Tokens.open(EmbeddingSet.open(made.root)).facts["path"] == "values"


def test_a_shard_that_went_missing_costs_no_tokens(corpus, encoder, made, said, monkeypatch):
    class Loses(Serial):
        def map(self, open_, parts, **options):
            yield from super().map(open_, parts, **options)
            parts[0].path.unlink()

    embed_tokens(corpus, LocalEncoder(encoder, "values"), made, say=said)
    with pytest.raises(UserError, match=r"image-0{9}-.*no such file"):
        embed_tokens(corpus, LocalEncoder(encoder, "last"), EmbeddingSet.open(made.root), say=said, executor=Loses())
    assert Tokens.open(EmbeddingSet.open(made.root)).facts["path"] == "values"


def test_shards_of_other_settings_have_other_names(corpus, encoder, made, said, monkeypatch):
    """A worker of a call that failed may write its last shard when the next call has begun."""
    names = set()

    class Noting(Serial):
        def map(self, open_, parts, **options):
            assert not names & {one.path for one in parts}
            names.update(one.path for one in parts)
            return super().map(open_, parts, **options)

    for path in ("values", "last"):
        embed_tokens(corpus, LocalEncoder(encoder, path), EmbeddingSet.open(made.root), say=said, executor=Noting())
    embed_tokens(corpus, LocalEncoder(encoder), EmbeddingSet.open(made.root), batch_size=3, say=said, executor=Noting())
    assert len(names) > 8


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
    assert tokens.normalised
    assert json.loads((made.root / "meta.json").read_text())["tokens"]["cells"] == 3


def test_tokens_of_two_widths_made_elsewhere_are_kept_as_they_are(made, arrays):
    values, paths = arrays
    np.save(paths["image"], 7 * values["image"][:, :, :5])
    tokens = Tokens.open(import_tokens(made, *paths.values()))
    assert (tokens.dims, tokens.normalised) == ((5, 8), False)
    np.testing.assert_array_equal(tokens.image, (7 * values["image"][:, :, :5]).astype(np.float16))
    np.testing.assert_array_equal(tokens.text, values["text"].astype(np.float16))


@pytest.mark.parametrize("value", [1e5, np.nan, -np.inf])
def test_tokens_that_are_kept_must_be_finite_in_float16(made, arrays, value):
    values, paths = arrays
    cells = values["image"][:, :, :5].copy()
    cells[2, 1, 4] = value
    np.save(paths["image"], cells)
    with pytest.raises(UserError, match=r"image.npy: the token in row 2, 1 is not finite in float16"):
        import_tokens(made, *paths.values())


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("image", lambda a: a[:-1], "has 9 rows, the set has 10 images"),
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
