"""CLIP's rows of a hand-made set, whose ranks are known, against figures made to agree or to differ."""

import numpy as np
import pandas as pd
import pytest

from experiments.checks import verify
from rank_xmodal.data.embedding_set import EmbeddingSet

KEY = ("ViT-B-32-quickgelu", "openai")
# Of 20 images with 5 captions each, the first 16 are nearest to their own captions; the last 4 point at one another's.
T2I, I2T = (80.0, 100.0, 100.0), (80.0, 80.0, 100.0)
OPENAI = {
    "flickr30k": ((58.78, 83.56, 90.02), (78.90, 94.90, 98.20)),
    "coco": ((30.44, 55.94, 66.87), (50.12, 75, 83.52)),
}


def make(path, captions=5, **meta):
    """Images are unit vectors; a swapped image's captions lean to its neighbour first and to itself second."""
    eye, count = np.eye(22), 20
    images, texts, owners = eye[:count], [], []
    swapped = {16: 17, 17: 16, 18: 19, 19: 18}
    for image in range(count):
        for _ in range(captions):
            towards = eye[swapped.get(image, image)] + 0.5 * eye[image]
            texts.append(towards / np.linalg.norm(towards))
            owners.append(image)
    rows = range(len(texts))
    return EmbeddingSet(
        images.astype(np.float16),
        np.array(texts).astype(np.float16),
        pd.DataFrame({"image_id": [f"i{k}" for k in range(count)], "path": "", "split": "test"}),
        pd.DataFrame({"text_id": [f"t{k}" for k in rows], "text": [f"c{k}" for k in rows], "split": "test"}),
        pd.DataFrame({"image": owners, "text": rows, "grade": 1}),
        {"name": "made", "encoder": KEY[0], "pretrained": KEY[1], "dataset": "flickr30k", "precision": "fp32", **meta},
    ).write(path)


@pytest.fixture
def known(monkeypatch):
    """Return a function that sets what is published for Flickr30K."""

    def put(t2i, i2t):
        monkeypatch.setitem(verify.PUBLISHED, KEY, {"flickr30k": {"t2i": t2i, "i2t": i2t}})

    return put


def test_the_published_figures_are_open_clips():
    for dataset, (t2i, i2t) in OPENAI.items():
        assert verify.PUBLISHED[KEY][dataset] == {"t2i": t2i, "i2t": i2t}
    for figures in verify.PUBLISHED.values():
        for one in (rows for dataset in figures.values() for rows in dataset.values()):
            assert len(one) == 3
            assert 20 < one[0] < one[1] < one[2] < 100


def test_figures_that_agree_end_with_0(run, tmp_path, known, capsys):
    known(T2I, (I2T[0] + 0.3, I2T[1] - 0.3, I2T[2]))
    run("verify", "flickr30k", "--data", make(tmp_path / "set").root)
    out = capsys.readouterr().out
    assert "All 6 figures agree." in out
    assert "-0.30" in out
    assert "+0.30" in out
    assert "off" not in out
    assert "And yet, test images: 20 instead of 1,000" in out  # figures of another test set may agree by chance


def test_a_figure_that_differs_ends_with_1_and_names_what_meta_shows(run, tmp_path, known, capsys):
    known((T2I[0] + 0.31, *T2I[1:]), I2T)
    made = make(tmp_path / "set", precision="fp16")
    run("verify", "flickr30k", "--data", made.root, code=1)
    out = capsys.readouterr().out
    assert "1 of 6 figures are off by more than 0.3 points" in out
    assert "80.31" in out
    assert "-0.31" in out
    assert "test images: 20 instead of 1,000" in out
    assert "test captions: 100 instead of 5,000" in out
    assert "precision: made in fp16" in out
    assert "preprocessing:" in out
    assert "QuickGELU" not in out


def test_a_model_without_quickgelu_is_named_as_a_cause(run, tmp_path, capsys):
    made = make(tmp_path / "set", encoder="ViT-B-32")
    run("verify", "flickr30k", "--data", made.root, code=1)
    assert "QuickGELU: model='ViT-B-32' with pretrained='openai'" in capsys.readouterr().out


def test_the_quickgelu_names_of_openais_weights_are_known(tmp_path):
    made = make(tmp_path / "set", encoder="ViT-L-14-quickgelu")
    assert verify.published(made, "flickr30k")["t2i"][0] == 64.96


def test_an_images_first_five_captions_are_compared(run, tmp_path, known, capsys):
    made = make(tmp_path / "set", captions=7)
    kept = verify.first_captions(made).texts["split"] == "test"
    assert kept.sum() == 100
    assert kept.to_numpy().reshape(20, 7).all(axis=0).tolist() == [True] * 5 + [False] * 2
    known(T2I, I2T)
    run("verify", "flickr30k", "--data", made.root)
    assert "All 6 figures agree." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("meta", "dataset", "message"),
    [
        ({"encoder": None, "pretrained": None}, "flickr30k", "meta.json: encoder None, pretrained None: nobody knows"),
        ({"pretrained": "laion2b_s34b_b79"}, "flickr30k", "Did you mean 'ViT-B-32/laion2b_s34b_b79k'"),
        ({}, "coco", "dataset 'flickr30k', not 'coco'. Verify it as flickr30k"),
    ],
)
def test_what_cant_be_compared_ends_with_2(run, tmp_path, capsys, meta, dataset, message):
    made = make(tmp_path / "set", **meta)
    run("verify", dataset, "--data", made.root, code=2)
    assert message in capsys.readouterr().err


def test_no_set_and_no_test_split_end_with_2(run, tmp_path, random_set, capsys):
    empty = random_set(["train"] * 4)
    empty.meta.update(encoder=KEY[0], pretrained=KEY[1])
    empty.write(tmp_path / "train-only")
    for path, message in ((tmp_path / "none", "no such folder"), (tmp_path / "train-only", "split 'test' is empty")):
        run("verify", "flickr30k", "--data", path, code=2)
        assert message in capsys.readouterr().err
