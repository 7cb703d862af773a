"""BLIP's matching head on the first few of each list: its own scores, one look at an image, and what is refused."""

import dataclasses
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from rank_xmodal import scorers
from rank_xmodal.errors import UserError
from rank_xmodal.lists.content import Content
from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.scoring import score_lists
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.scorers import Stack
from rank_xmodal.scorers.folder import load, save

CPU = torch.device("cpu")


@pytest.fixture
def images(image_files):
    return image_files


CAPTIONS = ["a dog", "two cats on a very long red sofa that goes on and on and on and on", "rain", "7 birds"]


def batch_of(images, direction="t2i", length=6):
    """Return a batch of three lists, the last one padded."""
    queries, candidates = (CAPTIONS, images) if direction == "t2i" else (images, CAPTIONS)
    draw = torch.Generator().manual_seed(0)
    rows = torch.stack([torch.randperm(len(candidates), generator=draw)[:length] for _ in range(3)])
    rows[2, 1:4] = -1
    cosine = torch.rand(rows.shape, generator=draw)
    cosine[2, 1:4] = 9.0
    return ListBatch(
        query=torch.zeros(3, 4), candidates=torch.zeros(*rows.shape, 0), cosine=cosine,
        neighbour_cosine=torch.zeros(*rows.shape, 0), mask=rows >= 0, query_row=torch.tensor([2, 0, 1]), rows=rows,
        content=Content(direction, queries, candidates),
    )  # fmt: skip


def by_hand(folder, caption, path):
    """Return the log-odds of the model's own forward."""
    import transformers

    model = transformers.BlipForImageTextRetrieval.from_pretrained(folder).eval()
    processor = transformers.BlipProcessor.from_pretrained(folder)
    inputs = processor(
        images=Image.open(path), text=caption, return_tensors="pt", truncation=True, max_length=24
    )  # fmt: skip
    with torch.inference_mode():
        no, yes = model(**inputs).itm_score[0].tolist()
    return yes - no


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_the_first_few_have_the_models_own_score_and_the_rest_its_order(tiny_blip, images, direction):
    batch = batch_of(images, direction, 6 if direction == "t2i" else 4)
    found = scorers.get("blip_itm", model=str(tiny_blip), top=2, batch_size=3).score(batch)
    assert found.dtype == torch.float32
    for row in range(3):
        places = [p for p in batch.cosine[row].argsort(descending=True).tolist() if batch.mask[row, p]]
        for place in places[:2]:
            pair = batch.content.pair(int(batch.query_row[row]), int(batch.rows[row, place]))
            assert float(found[row, place]) == pytest.approx(by_hand(tiny_blip, *pair), abs=1e-3)
        scores = [float(found[row, place]) for place in places]
        assert max(scores[2:], default=-np.inf) < min(scores[:2])
        assert scores[2:] == sorted(scores[2:], reverse=True), "the others stay in the first stage's order"
    assert len(set(found[0].tolist())) == batch.rows.shape[1]


def test_the_scores_are_the_same_in_blocks_of_any_size(tiny_blip, images):
    batch = batch_of(images)
    one, all_of_them = (
        scorers.get("blip_itm", model=str(tiny_blip), top=6, batch_size=size).score(batch) for size in (1, 64)
    )
    torch.testing.assert_close(one[batch.mask], all_of_them[batch.mask], rtol=1e-3, atol=1e-3)


def test_an_image_is_looked_at_once_in_a_block(tiny_blip, images, monkeypatch):
    scorer = scorers.get("blip_itm", model=str(tiny_blip), top=4)
    model, _ = scorer._load()
    seen, real = [], model.vision_model.forward
    monkeypatch.setattr(
        model.vision_model, "forward", lambda **inputs: (seen.append(len(inputs["pixel_values"])), real(**inputs))[1]
    )
    batch = batch_of(images[:1], "i2t", 4)
    scorer.score(replace(batch, query_row=torch.zeros(3, dtype=torch.int64)))
    assert seen == [1]


def test_through_lists_a_folder_and_back(tiny_blip, images, corpus, tmp_path):
    """In a set, the lists' captions and images are looked up by their rows."""
    data = corpus.planted(images=40)
    paths = [images[row % 8] for row in range(40)]
    data = replace(data, images=data.images.assign(path=paths))
    scorer = scorers.get("blip_itm", model=str(tiny_blip), top=2).fit(data, "t2i")
    scorer.needs.check("blip_itm", data)
    stack = Stack(scorer, np.asarray(data.text_emb[:5]))
    gallery = rank_gallery(data, "t2i", "test", depth=4)
    found = score_lists(scorer, stack.tensors(data, gallery.lists, CPU))
    query, row = int(gallery.lists.query[3]), int(gallery.lists.candidates[3, 0])
    assert float(found[3, 0]) == pytest.approx(by_hand(tiny_blip, data.texts["text"][query], paths[row]), abs=1e-3)
    save(tmp_path, stack, {"direction": "t2i"}, "a card")
    again = load(tmp_path)[0]
    torch.testing.assert_close(score_lists(again.scorer, again.tensors(data, gallery.lists, CPU)), found)


def said_of(images, model):
    with pytest.raises(UserError) as error:
        scorers.get("blip_itm", model=str(model)).score(batch_of(images))
    return str(error.value)


def test_pickled_weights_are_not_read(tiny_blip, images, tmp_path):
    shutil.copytree(tiny_blip, tmp_path / "blip")
    (tmp_path / "blip/model.safetensors").unlink()
    torch.save({}, tmp_path / "blip/pytorch_model.bin")
    said = said_of(images, tmp_path / "blip")
    assert "can't be loaded" in said
    assert ".safetensors; pickled ones (.bin) are never read" in said


def test_another_model_is_told(tiny_blip, images, tmp_path):
    from safetensors.torch import load_file, save_file

    assert "model='nobody/nothing': can't be loaded" in said_of(images, "nobody/nothing")
    shutil.copytree(tiny_blip, tmp_path / "blip")
    kept = {k: v for k, v in load_file(tiny_blip / "model.safetensors").items() if "itm_head" not in k}
    save_file(kept, tmp_path / "blip/model.safetensors", {"format": "pt"})
    assert "has no weights for itm_head.bias: another kind of BLIP" in said_of(images, tmp_path / "blip")


def test_an_image_that_cannot_be_read_is_named(tiny_blip, images, tmp_path):
    (tmp_path / "a.png").write_text("no image")
    Image.new("1", (9_500, 9_500)).save(tmp_path / "bomb.png")
    for path, said in (
        (str(tmp_path / "a.png"), "a.png: can't be read as an image"),
        (str(tmp_path / "bomb.png"), r"bomb.png: can't be read as an image \(Image size \(90250000 pixels\) exceeds"),
        (str(tmp_path / "none.png"), "none.png: no such image"),
        ("", "an image without a path: no such image"),
        ("http://127.0.0.1/a.png", "no such image"),
    ):
        batch = batch_of([path] * 8)
        with pytest.raises(UserError, match=said):
            scorers.get("blip_itm", model=str(tiny_blip)).score(batch)


def test_without_transformers_the_message_says_what_to_install(images, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install 'rank-xmodal[blip]'" in said_of(images, "anything")


def test_a_set_without_paths_is_refused(corpus):
    with pytest.raises(UserError, match="image row 0 has no path, and scorer=blip_itm looks at the images"):
        scorers.get("blip_itm").needs.check("blip_itm", corpus.data)


def test_captions_that_are_lost_are_not_read(corpus):
    told = corpus.data.images.assign(path="a.jpg")
    lost = dataclasses.replace(corpus.data, images=told, meta={**corpus.data.meta, "captions_lost": 3})
    with pytest.raises(UserError, match="3 of its captions are lost, and scorer=blip_itm reads the captions"):
        scorers.get("blip_itm").needs.check("blip_itm", lost)
