import lzma
import pickle
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data_prep.encoder import load_encoder
from data_prep.weights import MODELS
from rank_xmodal.errors import UserError
from rank_xmodal.files import sha256_of_file

TEXTS = ["a red circle", "two dogs run", "x"]


@pytest.fixture
def direct(open_clip, tiny_weights):
    """The same weights, by open_clip's own few lines."""
    model, _, preprocess = open_clip.create_model_and_transforms("tiny-test", pretrained=str(tiny_weights))
    return model.eval(), preprocess, open_clip.get_tokenizer("tiny-test")


def test_images_are_open_clips(encoder, direct, picture, tmp_path):
    model, preprocess, _ = direct
    pictures = [picture(i) for i in range(5)]
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for image, path in zip(pictures, paths, strict=True):
        image.save(path)
    with torch.no_grad():
        expected = F.normalize(model.encode_image(torch.stack([preprocess(p) for p in pictures])), dim=-1).numpy()
    for given in (pictures, paths, [str(p) for p in paths]):
        got = encoder.encode_images(given, batch_size=2)
        assert got.dtype == np.float16
        assert got.shape == (5, 32) == (5, encoder.dim)
        assert np.abs(got - expected).max() < 5e-4
    assert np.allclose(np.linalg.norm(got.astype(np.float32), axis=1), 1, atol=1e-3)
    assert np.abs(expected[0] - expected[1]).max() > 0.01  # the oracle tells images apart


def test_texts_are_open_clips(encoder, direct):
    model, _, tokenizer = direct
    with torch.no_grad():
        expected = F.normalize(model.encode_text(tokenizer(TEXTS)), dim=-1).numpy()
    got = encoder.encode_texts(TEXTS, batch_size=2)
    assert got.dtype == np.float16
    assert np.abs(got - expected).max() < 5e-4
    assert encoder.truncated == 0


def test_nothing_gives_an_empty_matrix(encoder):
    assert encoder.encode_texts([]).shape == (0, 32)
    assert encoder.encode_images([]).shape == (0, 32)


def test_twice_the_same_bits(encoder, picture):
    pictures = [picture(i) for i in range(4)]
    assert np.array_equal(encoder.encode_images(pictures), encoder.encode_images(pictures))
    assert np.array_equal(encoder.encode_texts(TEXTS), encoder.encode_texts(TEXTS))


def test_long_captions_are_counted(encoder):
    # The context is 16 tokens, start and end included: 14 words fit exactly.
    encoder.encode_texts([" ".join(["dog"] * n) for n in (3, 13, 14, 15, 40)])
    assert encoder.truncated == 2


def test_identity(encoder, tiny_weights):
    assert (encoder.name, encoder.pretrained, encoder.precision) == ("tiny-test", "tiny.safetensors", "fp32")
    assert encoder.sha256 == sha256_of_file(tiny_weights)
    assert encoder.weights_file == str(tiny_weights.resolve())
    assert not encoder.model.training


def test_xz_is_the_same_model(encoder, tiny_weights, tmp_path):
    packed = tmp_path / "t.safetensors.xz"
    packed.write_bytes(lzma.compress(tiny_weights.read_bytes(), preset=0))
    other = load_encoder("tiny-test", str(packed), say=lambda line: None)
    assert other.sha256 == sha256_of_file(packed)
    assert np.array_equal(other.encode_texts(TEXTS), encoder.encode_texts(TEXTS))
    packed.write_bytes(packed.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"t\.safetensors\.xz: not a whole \.xz file"):
        load_encoder("tiny-test", str(packed))
    packed.write_bytes(b"plain text")
    with pytest.raises(UserError, match=r"not a whole \.xz file"):
        load_encoder("tiny-test", str(packed))


def test_torch_weights(encoder, tiny_weights, tmp_path):
    from safetensors.torch import load_file

    path = tmp_path / "t.pt"
    torch.save({"state_dict": load_file(tiny_weights)}, path)
    other = load_encoder("tiny-test", str(path), say=lambda line: None)
    assert np.array_equal(other.encode_texts(TEXTS), encoder.encode_texts(TEXTS))


class _Trap:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_in_a_weights_file_never_runs(tiny_weights, tmp_path, how):
    marker, path = tmp_path / "it-ran", tmp_path / "evil.pt"
    if how == "torch":
        torch.save({"state_dict": _Trap(marker)}, path)
    else:
        path.write_bytes(pickle.dumps(_Trap(marker)))
    with pytest.raises(UserError, match=r"evil\.pt: not a plain weights file.*safetensors"):
        load_encoder("tiny-test", str(path), say=lambda line: None)
    assert not marker.exists()


def test_torchscript_names_the_remedy(tiny_weights, tmp_path):
    path = tmp_path / "script.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    with pytest.raises(UserError, match=r"script\.pt.*safetensors"):
        load_encoder("tiny-test", str(path), say=lambda line: None)


def test_cut_short_weights(tiny_weights, tmp_path):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(tiny_weights.read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"cut\.safetensors: can't be read as weights of 'tiny-test'"):
        load_encoder("tiny-test", str(path), say=lambda line: None)


def test_weights_of_another_architecture(tiny_weights, tmp_path):
    from safetensors.torch import load_file, save_file

    path = tmp_path / "other.safetensors"
    state = load_file(tiny_weights)
    save_file({k: v for k, v in state.items() if "visual" not in k}, path)
    with pytest.raises(UserError, match=r"other\.safetensors: these weights are not of model 'tiny-test'.*Missing"):
        load_encoder("tiny-test", str(path), say=lambda line: None)
    with pytest.raises(UserError, match=r"tiny\.safetensors: .*'scenes-clip'"):
        load_encoder("scenes-clip", str(tiny_weights), say=lambda line: None)


def test_not_finite_embeddings_name_the_item(tiny_weights, tmp_path, picture):
    from safetensors.torch import load_file, save_file

    path = tmp_path / "nan.safetensors"
    state = load_file(tiny_weights)
    state["visual.proj"][0, 0] = float("nan")
    state["text_projection"][0, 0] = float("nan")
    save_file(state, path)
    broken = load_encoder("tiny-test", str(path), say=lambda line: None)
    picture(0).save(tmp_path / "cat.png")
    with pytest.raises(UserError, match=r"image .*cat\.png: tiny-test gives an embedding that is not finite"):
        broken.encode_images([tmp_path / "cat.png"])
    with pytest.raises(UserError, match="caption 'a red circle'"):
        broken.encode_texts(TEXTS)


def test_bf16_is_close_and_only_on_request(encoder, tiny_weights):
    half = load_encoder("tiny-test", str(tiny_weights), device="cpu", precision="bf16", say=lambda line: None)
    a, b = half.encode_texts(TEXTS).astype(np.float32), encoder.encode_texts(TEXTS).astype(np.float32)
    assert (a * b).sum(1).min() > 0.99
    assert not np.array_equal(a, b)
    assert half.identity != encoder.identity


def test_bad_device_and_precision(tiny_weights):
    with pytest.raises(UserError, match=r"precision='fp8'.*auto, fp32"):
        load_encoder("tiny-test", str(tiny_weights), precision="fp8")
    with pytest.raises(UserError, match=r"precision='fp16'.*CPU"):
        load_encoder("tiny-test", str(tiny_weights), device="cpu", precision="fp16")
    with pytest.raises(UserError, match=r"device='nonsense'.*--device cpu"):
        load_encoder("tiny-test", str(tiny_weights), device="nonsense")


def test_unpacking_where_the_disk_is_full(tiny_weights, tmp_path, monkeypatch):
    packed = tmp_path / "t.safetensors.xz"
    packed.write_bytes(lzma.compress(tiny_weights.read_bytes()[:1000], preset=0))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(UserError, match=r"No space left.*TMPDIR"):
        load_encoder("tiny-test", str(packed))


@pytest.mark.skipif(not (MODELS / "scenes-clip.safetensors.xz").is_file(), reason="the demo's weights are not here")
def test_the_demos_encoder_knows_red_from_blue(tmp_path):
    from data_prep.scenes.render import render
    from data_prep.scenes.world import Scene, Shape

    encoder = load_encoder("scenes-clip", "scenes", device="cpu")
    assert encoder.dim == 256
    assert encoder.weights_file is None
    pictures = [
        render(
            Scene("white", (Shape("circle", c, "large", 0, 0), Shape("star", c, "large", 2, 2))),
            np.random.default_rng(0),
        )
        for c in ("red", "blue", "green")
    ]
    texts = [f"{c} circle, {c} star, white background" for c in ("red", "blue", "green")]
    similarity = encoder.encode_images(pictures).astype(np.float32) @ encoder.encode_texts(texts).astype(np.float32).T
    assert similarity.argmax(1).tolist() == [0, 1, 2]
