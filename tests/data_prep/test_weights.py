import hashlib
import json

import numpy as np
import pytest

from data_prep.encoder import load_encoder
from data_prep.weights import check_quick_gelu, resolve
from rank_xmodal.errors import UserError


def test_openai_weights_need_quickgelu():
    # open_clip only warns, and computes the wrong embeddings.
    with pytest.raises(UserError, match=r"'ViT-B-32' with pretrained='openai'.*--model ViT-B-32-quickgelu"):
        resolve("ViT-B-32", "openai")
    with pytest.raises(UserError, match="--model ViT-B-32-quickgelu"):
        resolve("ViT-B/32", "openai")  # OpenAI's own spelling
    check_quick_gelu("ViT-B-32-quickgelu", "openai")


def test_the_reverse_mismatch():
    with pytest.raises(UserError, match=r"no weights 'laion2b_s34b_b79k'.*--model ViT-B-32\."):
        resolve("ViT-B-32-quickgelu", "laion2b_s34b_b79k")


def test_the_rule_is_open_clips_over_its_whole_registry(open_clip):
    refused = set()
    for model, tag in open_clip.list_pretrained():
        mine = False
        try:
            check_quick_gelu(model, tag)
        except UserError:
            mine = True
            refused.add(model)
        have = open_clip.get_model_config(model).get("quick_gelu", False)
        theirs = have != open_clip.get_pretrained_cfg(model, tag).get("quick_gelu", False)
        # This one's table entry lacks the flag, and there is no other model to name.
        assert mine == (theirs and model != "roberta-ViT-B-32"), (model, tag)
    assert {"ViT-B-32", "ViT-L-14", "RN50"} <= refused
    assert not any(model.endswith("-quickgelu") for model in refused)


def test_unknown_names_get_near_ones():
    with pytest.raises(UserError, match=r"model='ViT-B32'.*Did you mean ViT-B-32"):
        resolve("ViT-B32", "openai")
    with pytest.raises(UserError, match=r"model='scene-clip'.*scenes-clip"):
        resolve("scene-clip", "scenes")
    with pytest.raises(UserError, match=r"pretrained='opnai'.*Did you mean 'openai'\?"):
        resolve("ViT-B-32-quickgelu", "opnai")
    with pytest.raises(UserError, match=r"'scenes-clip'.*--pretrained.*its tags are scenes"):
        resolve("scenes-clip", None)
    with pytest.raises(UserError, match=r"pretrained='/no/such\.pt': no such file"):
        resolve("ViT-B-32", "/no/such.pt")


def test_a_folder_is_no_weights_file(tmp_path):
    with pytest.raises(UserError, match=r"a folder. Name the weights file in it"):
        resolve("ViT-B-32", str(tmp_path))


def test_offline_says_what_to_bring_and_where(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError) as caught:
        resolve("ViT-B-32-quickgelu", "openai")
    message = str(caught.value)
    for part in (
        "open_clip_model.safetensors",
        "huggingface.co/timm/vit_base_patch32_clip_224.openai",
        "--pretrained openai=/path/to/open_clip_model.safetensors",
        "models--timm--vit_base_patch32_clip_224.openai",
        str(tmp_path),
    ):
        assert part in message


@pytest.mark.parametrize("error", [OSError("Network is unreachable"), RuntimeError("checksum does not not match")])
def test_offline_without_a_hub_entry(open_clip, tiny_weights, monkeypatch, error):
    from open_clip import pretrained

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(pretrained.urllib.request, "urlopen", refuse)
    cfg = pretrained._pcfg(url="https://example.org/weights/tiny-1234abcd.pt")
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny-test", {"web": cfg})
    monkeypatch.setattr(pretrained.os.path, "expanduser", lambda p: str(tiny_weights.parent / "cache"))
    with pytest.raises(UserError, match=r"example\.org/weights/tiny-1234abcd\.pt.*--pretrained web=/path/to/tiny-1234"):
        resolve("tiny-test", "web")


@pytest.fixture
def tags(open_clip, tiny_weights, monkeypatch):
    from open_clip import pretrained

    digest = hashlib.sha256(tiny_weights.read_bytes()).hexdigest()
    table = {
        "grey": pretrained._slpcfg(hf_hub="nobody/grey/"),
        "quick": pretrained._pcfg(hf_hub="nobody/quick/", url=f"https://openaipublic/{digest}/x.pt", quick_gelu=True),
    }
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny-test", table)
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny-test-quickgelu", {"quick": table["quick"]})
    return table


def test_tag_with_its_file(tags, tiny_weights):
    weights = resolve("tiny-test", f"grey={tiny_weights}")
    assert (weights.tag, weights.path) == ("grey", tiny_weights)
    assert weights.preprocess["mean"] == (0.5, 0.5, 0.5)
    assert weights.preprocess["resize_mode"] == "squash"
    with pytest.raises(UserError, match="--model tiny-test-quickgelu"):
        resolve("tiny-test", f"quick={tiny_weights}")


def test_the_tags_preparation_reaches_the_encoder(tags, tiny_weights, picture):
    from data_prep.encoder import load_encoder

    pixels = load_encoder("tiny-test", f"grey={tiny_weights}").load_image(picture(0).resize((32, 32)))
    expected = pixels.new_tensor(__import__("numpy").asarray(picture(0).resize((32, 32)))).permute(2, 0, 1) / 255
    assert (pixels - (expected - 0.5) / 0.5).abs().max() < 1e-5


def test_an_encoder_that_is_loaded_again_prepares_as_the_first(tags, tiny_weights, picture):
    """A set names the tag and the file of its encoder: a query is prepared as the corpus was."""
    from data_prep.encoder import load_encoder
    from data_prep.encoder_of import encoder_of

    first = load_encoder("tiny-test", f"grey={tiny_weights}")
    again = encoder_of({**first.identity, "weights_file": first.weights_file})
    assert again.identity == first.identity
    assert (again.load_image(picture(0)) == first.load_image(picture(0))).all()


def test_a_known_file_is_recognised_by_its_checksum(tags, tiny_weights):
    with pytest.raises(UserError, match=r"trained with QuickGELU.*--model tiny-test-quickgelu"):
        resolve("tiny-test", str(tiny_weights))
    assert resolve("tiny-test-quickgelu", str(tiny_weights)).tag == "quick"


def test_an_unknown_file_says_what_is_not_known(tags, tiny_weights, tmp_path):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(tiny_weights.read_bytes() + b" ")
    notes = resolve("tiny-test", str(path)).notes
    assert any("TAG=mine.safetensors" in note for note in notes)
    assert any("which activation" in note and "tiny-test-quickgelu" in note for note in notes)


def test_a_config_file_is_a_model(tiny_weights, tmp_path):
    """The very embeddings of the model that open_clip knows by name, and what tells it again goes along."""
    config, known = tmp_path / "mine-of-tests.json", (tiny_weights.parent / "tiny-test.json").read_text()
    config.write_text(known)
    by_file, by_name = (
        load_encoder(model, str(tiny_weights), device="cpu", say=lambda line: None)
        for model in (str(config), "tiny-test")
    )
    assert (by_file.name, by_file.config) == ("mine-of-tests", json.loads(known))
    assert json.loads(by_file.identity["model_config"]) == json.loads(known)
    assert by_name.config is None
    assert "model_config" not in by_name.identity
    np.testing.assert_array_equal(by_file.encode_texts(["a dog"]), by_name.encode_texts(["a dog"]))


def test_a_config_file_that_is_none_is_refused(tmp_path, tiny_weights):
    broken, other, taken = (tmp_path / name for name in ("broken.json", "other.json", "ViT-B-32.json"))
    broken.write_text("{")
    other.write_text('{"embed_dim": 3}')
    taken.write_text((tiny_weights.parent / "tiny-test.json").read_text())
    for path, message in (
        (tmp_path / "none.json", "no such file. Name one of open_clip's models, or a config file"),
        (broken, "broken.json"),
        (other, "no open_clip config; it needs the keys embed_dim, vision_cfg, text_cfg"),
        (taken, "another model named 'ViT-B-32'. Give the config file another name"),
    ):
        with pytest.raises(UserError, match=message):
            resolve(str(path), str(tiny_weights))
