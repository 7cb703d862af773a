"""Folds of the test split, and CLIP, CSLS and a ranker over them beside the whole gallery."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from experiments.checks import protocols
from experiments.results.evaluate import evaluate_run
from experiments.run.train import run_training
from rank_xmodal import scorers
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.use.reranker import Reranker


def corpus(test_images, train_images=20, captions=2, d=8):
    """Train and test images take turns, so that rows of the split aren't rows of the table."""
    rng = np.random.default_rng(0)
    count = train_images + test_images
    splits = np.array(["test"] * count, dtype=object)
    splits[: 2 * train_images : 2] = "train"
    image = rng.normal(size=(count, d))
    owner = np.repeat(np.arange(count), captions)
    text = image[owner] + 0.7 * rng.normal(size=(len(owner), d))
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    return EmbeddingSet(
        image.astype(np.float16),
        text.astype(np.float16),
        pd.DataFrame({"image_id": [f"i{k}" for k in range(count)], "path": "", "split": splits}),
        pd.DataFrame(
            {"text_id": [f"t{k}" for k in range(len(owner))], "text": [f"c{k}" for k in owner], "split": splits[owner]}
        ),
        pd.DataFrame({"image": owner, "text": np.arange(len(owner)), "grade": 1}),
        {"name": "corpus", "fingerprint": "corpus"},
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a set of 40 test images and the folders of rankers trained on it, by direction."""
    root = tmp_path_factory.mktemp("protocols")
    data = corpus(40).write(root / "set")
    plan = scorers.parse({"epochs": 1, "device": "cpu"})
    for direction in ("t2i", "i2t"):
        run_training(data, direction, plan, root / direction, tracking=None, say=lambda line: None)
    return data, root


def test_coco_is_cut_into_five_consecutive_folds_with_all_their_captions():
    data = corpus(5_000, captions=5)
    whole = data.candidate_rows("t2i", "test")
    folds = protocols.coco_1k_folds(data)
    assert [len(fold.candidate_rows("t2i", "test")) for fold in folds] == [1_000] * 5
    assert np.concatenate([fold.candidate_rows("t2i", "test") for fold in folds]).tolist() == whole.tolist()
    for fold in folds:
        images = fold.candidate_rows("t2i", "test")
        own = data.relevance["text"][data.relevance["image"].isin(images)]
        assert fold.query_rows("t2i", "test").tolist() == sorted(own)
        assert fold.candidate_rows("i2t", "test").tolist() == sorted(own)
        assert (fold.images["split"] == "train").equals(data.images["split"] == "train")
        assert (fold.texts["split"] == "train").equals(data.texts["split"] == "train")
    assert len({fold.fingerprint for fold in folds}) == 5
    assert (data.images["split"] == "test").sum() == 5_000


@pytest.mark.parametrize("images", [40, 4_999, 5_001])
def test_another_number_of_images_is_refused(images):
    with pytest.raises(UserError, match=rf"has {images:,} images; COCO's 1K protocol is over Karpathy's 5,000"):
        protocols.coco_1k_folds(corpus(images))


@pytest.mark.parametrize("size", [0, 7, 40, 80])
def test_folds_must_be_whole_and_two_or_more(size):
    with pytest.raises(UserError, match=f"--fold-size {size}: .* has 40 images"):
        protocols.folds_of_test(corpus(40), size)


def test_a_caption_of_images_in_two_folds_is_in_both():
    data = corpus(40)
    images = data.candidate_rows("t2i", "test")
    shared = int(data.relevance["text"][data.relevance["image"] == images[0]].iloc[0])
    data.relevance.loc[len(data.relevance)] = [images[-1], shared, 1]
    folds = protocols.folds_of_test(data, 20)
    assert [shared in fold.query_rows("t2i", "test") for fold in folds] == [True, True]


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_figures_are_the_mean_over_folds_and_those_of_the_whole(trained, direction):
    data, root = trained
    reranker = Reranker.from_pretrained(root / direction, "cpu")
    report = protocols.compare(data, reranker, fold_size=10, depth=6)
    values = []
    for part in [*protocols.folds_of_test(data, 10), data]:
        values.append(evaluate_run(reranker, part, "test", depth=6).report)
    assert values[-1]["gallery"] == 4 * values[0]["gallery"]
    for row in ("clip", "csls", "ranker"):
        for name in ("R@1", "MRR"):
            assert report["folds"][row][name] == pytest.approx(np.mean([one[row][name] for one in values[:4]]))
            assert report["whole"][row][name] == values[-1][row][name]
    assert report["folds"]["clip"]["R@1"] > report["whole"]["clip"]["R@1"]
    assert report["folds"]["ceiling"] == pytest.approx(np.mean([one["ceiling"] for one in values[:4]]))
    assert report["whole"]["ceiling"] == values[-1]["ceiling"] < 1
    facts = {"direction": direction, "split": "test", "depth": 6, "fold_size": 10, "fingerprint": data.fingerprint,
             "first_stage": "clip"}  # fmt: skip
    assert {key: report[key] for key in facts} == facts


def test_the_command_prints_both_and_writes_json(run, trained, tmp_path, capsys):
    data, root = trained
    call = [str(root / "t2i"), "--data", str(data.root), "--fold-size", "20", "--depth", "8", "--device", "cpu"]
    run("protocols", *call, "--json", tmp_path / "figures.json")
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "figures.json").read_text())
    for gallery in ("folds", "whole"):
        for row in ("clip", "csls", "ranker"):
            assert f"{100 * report[gallery][row]['R@1']:.2f}" in out
    assert f"{100 * report['whole']['ceiling']:.2f}" in out
    assert "mean over 2 folds" in out
    assert "in the list that is found by CLIP" in re.sub(r"\s+", " ", out)
    assert "andom order" not in out


@pytest.mark.parametrize("name", ["cca-t2i", "csls-i2t"])
def test_of_features_of_two_kinds_the_lists_are_not_called_clips(run, two_kinds, tmp_path, capsys, name):
    folder, data = two_kinds
    call = ["--data", data.root, "--fold-size", "20", "--depth", "8", "--device", "cpu"]
    run("protocols", folder / name, *call, "--json", tmp_path / "figures.json")
    out = re.sub(r"\s+", " ", capsys.readouterr().out)
    report = json.loads((tmp_path / "figures.json").read_text())
    assert report["first_stage"] == "cca"
    for gallery in ("folds", "whole"):
        assert list(report[gallery]) == ["chance", "ranker", "ceiling"]
    assert (
        "in the list that is found by CCA; the others are misses. Random order: of these lists, not of a gallery."
        in out
    )
    assert "CLIP" not in out
    assert "│ random order │" in out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "COCO's 1K protocol is over Karpathy's 5,000"),
        (["--fold-size", "7"], "--fold-size 7"),
        (["--fold-size", "20", "--depth", "1"], "1 is not in the range 2<=x"),
        (["--fold-size", "20", "--depth", "21"], "--depth 21: a fold's gallery holds 20 candidates"),
    ],
)
def test_what_a_user_can_mend_ends_with_2(run, trained, capsys, more, message):
    data, root = trained
    run("protocols", root / "t2i", "--data", data.root, "--device", "cpu", *more, code=2)
    assert message in capsys.readouterr().err


def test_a_ranker_of_another_width_is_refused(trained):
    _, root = trained
    with pytest.raises(UserError, match="takes embeddings 8 wide, those of corpus are 6 wide"):
        protocols.compare(corpus(40, d=6), Reranker.from_pretrained(root / "t2i", "cpu"), fold_size=20)
