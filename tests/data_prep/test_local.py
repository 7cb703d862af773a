"""Words and cells: each tower's parts, projected or as they are, and what can't be taken apart."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from data_prep.encoder import Encoder, load_encoder
from data_prep.local import LocalEncoder, _stage
from rank_xmodal.errors import UserError

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 48, "heads": 2, "layers": 2}
TOWERS = {
    "vit": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "vit-one-block": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64},
    "timm": {"timm_model_name": "test_efficientnet", "timm_model_pretrained": False, "timm_pool": "avg",
             "timm_proj": "linear", "timm_proj_bias": True, "image_size": 64},
}  # fmt: skip
WIDTHS = {"vit": 64, "vit-one-block": 64, "resnet": 256, "timm": 256}  # of the features of an image
CAPTIONS = ["a red star", "two blue rings above a very large green square", "cat"]


@pytest.fixture(scope="module", params=[*TOWERS])
def encoder(request, tmp_path_factory, open_clip):
    """Return an encoder of each kind of tower, of random weights."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp(request.param)
    config = folder / f"local-{request.param}.json"
    config.write_text(json.dumps({"embed_dim": 32, "vision_cfg": TOWERS[request.param], "text_cfg": TEXT}))
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-{request.param}")
    save_file({k: v.contiguous() for k, v in model.state_dict().items() if k != "attn_mask"}, folder / "w.safetensors")
    return load_encoder(str(config), str(folder / "w.safetensors"), "cpu", say=lambda line: None)


def pictures(encoder: Encoder, count=3):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (80, 80, 3), dtype=np.uint8)) for _ in range(count)]
    return images, torch.stack([encoder.load_image(image) for image in images])


def test_parts_stand_beside_the_encoders_own_embedding(encoder):
    images, pixels = pictures(encoder)
    for path in ("last", "values"):
        local = LocalEncoder(encoder, path)
        found = local.images(pixels, ["a", "b", "c"])
        assert np.abs(found.pooled.numpy() - encoder.encode_images(images)).max() < 1e-3
        rows, columns = local.image_facts["grid"]
        assert all(part.shape == (rows * columns, 32) for part in found.parts)
        found = local.texts(CAPTIONS)
        assert np.abs(found.pooled.numpy() - encoder.encode_texts(CAPTIONS)).max() < 1e-3
        assert [len(part) for part in found.parts] == [len(encoder.tokenizer.encode(text)) for text in CAPTIONS]
        for part in found.parts:
            torch.testing.assert_close(part.norm(dim=1), torch.ones(len(part)))


def unit(parts):
    return parts / parts.norm(dim=-1, keepdim=True)


def test_features_are_what_stands_before_the_projection(encoder):
    """Projected as the tower projects, they are the tokens of its last layer."""
    images, pixels = pictures(encoder)
    visual, model = encoder.model.visual, encoder.model
    features, last = LocalEncoder(encoder, "features"), LocalEncoder(encoder, "last")
    found, expected = (torch.stack(local.images(pixels, ["a", "b", "c"]).parts) for local in (features, last))
    pooled = features.images(pixels, ["a", "b", "c"]).pooled
    assert np.abs(pooled.numpy() - encoder.encode_images(images)).max() < 1e-3
    rows, columns = features.image_facts["grid"]
    assert found.shape == (3, rows * columns, features.image_width)
    assert features.image_width == next(WIDTHS[kind] for kind in WIDTHS if encoder.name == f"local-{kind}")
    assert (features.normalised, last.normalised, last.image_width, last.text_width) == (False, True, 32, 32)
    assert features.image_facts["path"] == "features"
    with torch.inference_mode():
        if type(visual).__name__ == "VisionTransformer":
            torch.testing.assert_close(unit(found @ visual.proj), expected, rtol=1e-4, atol=1e-5)
        elif type(visual).__name__ == "TimmModel":
            alone = visual.head(visual.trunk.forward_head(found.reshape(-1, features.image_width, 1, 1)))
            torch.testing.assert_close(unit(alone).view(expected.shape), expected, rtol=1e-4, atol=1e-5)
        else:
            stage = visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels))))
            for row, column in ((0, 0), (1, 2), (3, 3)):
                torch.testing.assert_close(found[:, 4 * row + column], stage[:, :, row, column])
        found, expected = features.texts(CAPTIONS), last.texts(CAPTIONS)
        assert np.abs(found.pooled.numpy() - encoder.encode_texts(CAPTIONS)).max() < 1e-3
        assert {part.shape[1] for part in found.parts} == {features.text_width} == {48}
        tower = getattr(model, "text", model)
        for part, other in zip(found.parts, expected.parts, strict=True):
            torch.testing.assert_close(unit(part @ tower.text_projection), other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("size", "stage", "side"), [(32, 2, 4), (64, 3, 4), (96, 3, 6), (128, 4, 4), (224, 4, 7)])
def test_of_a_resnet_the_deepest_stage_with_four_by_four_cells_is_taken(size, stage, side, open_clip):
    from open_clip.modified_resnet import ModifiedResNet

    visual = ModifiedResNet([1, 1, 1, 1], output_dim=8, heads=2, image_size=size, width=4).eval()
    assert _stage(visual, torch.device("cpu")) == (stage, [side, side], 4 * 4 * 2 ** (stage - 1))


def test_a_resnets_stage_is_named(encoder):
    if type(encoder.model.visual).__name__ != "ModifiedResNet":
        pytest.skip("no such tower")
    facts = {path: LocalEncoder(encoder, path).image_facts for path in ("values", "features")}
    assert facts["values"] == {"tower": "resnet", "layer": "last stage", "grid": [2, 2]}
    assert facts["features"] == {"tower": "resnet", "layer": "stage 3", "path": "features", "grid": [4, 4]}


@pytest.mark.parametrize(
    ("value", "what"), [(65_519.0, None), (-70_000.0, r"of size 70,000; float16 ends at 65,504\. Take --tokens values"),
                        (float("inf"), "is not finite"), (float("nan"), "is not finite")],
)  # fmt: skip
def test_features_that_float16_cannot_hold_are_told(encoder, value, what):
    local = LocalEncoder(encoder, "features")
    real = local._image

    def large(pixels):
        pooled, cells = real(pixels)
        cells = cells.clone()
        cells[1, -1, 3] = value
        return pooled, cells

    local._image = large
    _, pixels = pictures(encoder, 2)
    if what is None:
        assert float(local.images(pixels, ["a", "b"]).parts[1].half().max()) == 65_504
    else:
        with pytest.raises(UserError, match=f"image b: a token .*{what}"):
            local.images(pixels, ["a", "b"])


def test_a_captions_words_depend_on_no_other_caption(encoder):
    for path in ("values", "features"):
        local = LocalEncoder(encoder, path)
        whole, alone = local.texts(CAPTIONS), local.texts(CAPTIONS[:1])
        torch.testing.assert_close(whole.parts[0], alone.parts[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", ["values", "features"])
def test_cells_are_where_they_are_in_the_picture(encoder, path):
    """A picture that changes in one corner changes that corner's cell most."""
    local = LocalEncoder(encoder, path)
    _, pixels = pictures(encoder, 1)
    rows, columns = local.image_facts["grid"]
    if rows * columns < 4:
        pytest.skip("one cell")
    changed = pixels.clone()
    changed[:, :, -8:, -8:] += 3.0
    before, after = (local.images(x, ["a"]).parts[0] for x in (pixels, changed))
    assert int((before - after).norm(dim=1).argmax()) == rows * columns - 1


def test_the_value_path_is_the_last_blocks_attention_to_itself(encoder):
    """Where each patch attends to itself alone, the block's attention gives its value path."""
    visual = encoder.model.visual
    if type(visual).__name__ != "VisionTransformer":
        pytest.skip("no transformer")
    _, pixels = pictures(encoder, 2)
    block = visual.transformer.resblocks[-1]
    with torch.inference_mode():
        x = visual._embeds(pixels)
        for earlier in visual.transformer.resblocks[:-1]:
            x = earlier(x)
        inside = block.ln_1(x)
        alone = torch.full((x.shape[1], x.shape[1]), -torch.inf).fill_diagonal_(0.0)
        cells = block.attn(inside, inside, inside, need_weights=False, attn_mask=alone)[0]
        cells = visual.ln_post(cells)[:, 1:] @ visual.proj
    found = LocalEncoder(encoder, "values").images(pixels, ["a", "b"]).parts
    torch.testing.assert_close(torch.stack(found), cells / cells.norm(dim=-1, keepdim=True), rtol=1e-4, atol=1e-5)


def test_the_mean_of_a_convolutional_towers_cells_is_its_embedding(encoder):
    visual = encoder.model.visual
    if type(visual).__name__ != "TimmModel":
        pytest.skip("no such tower")
    _, pixels = pictures(encoder)
    from data_prep.local import _timm

    with torch.inference_mode():
        pooled, cells = _timm(visual, pixels)
    torch.testing.assert_close(cells.mean(1), pooled, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_taken_apart_is_told(encoder):
    with pytest.raises(UserError, match="tokens='middle': must be one of last, values, features"):
        LocalEncoder(encoder, "middle")
    with pytest.raises(UserError, match="'': has no words"):
        LocalEncoder(encoder).texts(["a star", ""])
    with pytest.raises(UserError, match="'': has no words"):
        LocalEncoder(encoder, "features").texts(["a star", ""])


@pytest.mark.parametrize("vision", [
    {"timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "token", "timm_proj": "linear",
     "image_size": 64},
    {**TOWERS["vit"], "attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2},
])  # fmt: skip
def test_other_towers_are_refused(vision, tmp_path, open_clip):
    made = odd(vision, tmp_path, open_clip)
    with pytest.raises(UserError, match="can't be projected one by one"):
        LocalEncoder(made)
    with pytest.raises(UserError, match="has no cells that could be kept"):
        LocalEncoder(made, "features")


def odd(vision, folder, open_clip):
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": TEXT}
    (folder / "local-odd.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "local-odd.json")
    torch.manual_seed(0)
    model = open_clip.create_model("local-odd").eval().requires_grad_(False)
    tokenizer = open_clip.get_tokenizer("local-odd")
    return Encoder("local-odd", "none", "0", model, None, tokenizer, torch.device("cpu"), "fp32", dim=32)


def test_a_tower_that_normalises_after_its_mean_has_features_alone(tmp_path, open_clip):
    vision = {"timm_model_name": "test_convnext", "timm_model_pretrained": False, "timm_pool": "",
              "timm_proj": "linear", "image_size": 64}  # fmt: skip
    made = odd(vision, tmp_path, open_clip)
    with pytest.raises(UserError, match="with mean pooling unless --tokens is features"):
        LocalEncoder(made)
    local = LocalEncoder(made, "features")
    pixels = torch.randn(2, 3, 64, 64)
    found = local.images(pixels, ["a", "b"])
    grid = made.model.visual.trunk.forward_features(pixels)
    assert local.image_facts == {"tower": "timm", "layer": "last map", "path": "features", "grid": [*grid.shape[2:]]}
    assert local.image_width == made.model.visual.trunk.num_features == found.parts[0].shape[1]
    torch.testing.assert_close(found.parts[1][grid.shape[3] + 1], grid[1, :, 1, 1])
    torch.testing.assert_close(found.pooled, made.model.encode_image(pixels, normalize=True))
