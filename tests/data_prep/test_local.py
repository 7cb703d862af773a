"""Words and cells: each tower's parts, in the space of its embeddings, and what can't be taken apart."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from data_prep.encoder import Encoder, load_encoder
from data_prep.local import LocalEncoder
from rank_xmodal.errors import UserError

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
TOWERS = {
    "vit": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "vit-one-block": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64},
    "timm": {"timm_model_name": "test_efficientnet", "timm_model_pretrained": False, "timm_pool": "avg",
             "timm_proj": "linear", "timm_proj_bias": True, "image_size": 64},
}  # fmt: skip
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


def test_a_captions_words_depend_on_no_other_caption(encoder):
    local = LocalEncoder(encoder)
    whole, alone = local.texts(CAPTIONS), local.texts(CAPTIONS[:1])
    torch.testing.assert_close(whole.parts[0], alone.parts[0], rtol=1e-4, atol=1e-5)


def test_cells_are_where_they_are_in_the_picture(encoder):
    """A picture that changes in one corner changes that corner's cell most."""
    local = LocalEncoder(encoder, "values")
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
    with pytest.raises(UserError, match="tokens='middle': must be one of last, values"):
        LocalEncoder(encoder, "middle")
    with pytest.raises(UserError, match="'': has no words"):
        LocalEncoder(encoder).texts(["a star", ""])


@pytest.mark.parametrize("vision", [
    {"timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "token", "timm_proj": "linear",
     "image_size": 64},
    {**TOWERS["vit"], "attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2},
])  # fmt: skip
def test_other_towers_are_refused(vision, tmp_path, open_clip):
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": TEXT}
    (tmp_path / "local-odd.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "local-odd.json")
    model = open_clip.create_model("local-odd").eval()
    odd = Encoder(
        "local-odd", "none", "0", model, None, open_clip.get_tokenizer("local-odd"), torch.device("cpu"), "fp32"
    )
    with pytest.raises(UserError, match="can't be projected one by one"):
        LocalEncoder(odd)
