"""MAP over a whole gallery against a plain loop, and sets whose sides have two widths."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score

from rank_xmodal import scorers
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.scorers.folder import save
from rank_xmodal.scorers.projections.class_validation import ClassValidation, mean_average_precision
from rank_xmodal.scorers.projections.pairs import TrainingPairs
from rank_xmodal.scorers.stack import fit_stack
from rank_xmodal.use.reranker import Reranker

CLASSES = ["art", "sport", "music|art", "war"]


@pytest.fixture(scope="module")
def two_widths():
    """Return 120 pairs of images 9 and texts 4 wide that know one thing, with classes."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 4, 120)
    common = np.eye(4)[kind] + 0.3 * rng.normal(size=(120, 4))
    splits = ["train"] * 80 + ["val"] * 20 + ["test"] * 20
    rows = range(120)
    labels = [CLASSES[k] for k in kind]
    return EmbeddingSet(
        (common @ rng.normal(size=(4, 9)) + 0.1 * rng.normal(size=(120, 9))).astype(np.float32),
        (common @ rng.normal(size=(4, 4)) + 0.1 * rng.normal(size=(120, 4))).astype(np.float32),
        pd.DataFrame({"image_id": [f"i{k}" for k in rows], "path": "", "split": splits, "labels": labels}),
        pd.DataFrame({"text_id": [f"t{k}" for k in rows], "text": "a", "split": splits, "labels": labels}),
        pd.DataFrame({"image": rows, "text": rows, "grade": 1}),
        {"name": "two widths", "fingerprint": "two widths", "aligned": False},
    )


def plain_average_precision(scores, relevant):
    order = sorted(range(len(scores)), key=lambda at: (-scores[at], at))
    hits, total = 0, 0.0
    for rank, at in enumerate(order, start=1):
        if relevant[at]:
            hits += 1
            total += hits / rank
    return total / hits if hits else 0.0


def test_average_precision_is_that_of_a_plain_loop_and_of_another_library():
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(12, 30, generator=draw)
    relevant = torch.rand(12, 30, generator=draw) < 0.3
    relevant[3] = False
    found = mean_average_precision(scores, relevant)
    expected = [plain_average_precision(s, r) for s, r in zip(scores.tolist(), relevant.tolist(), strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    assert float(found[0]) == pytest.approx(average_precision_score(relevant[0], scores[0]), abs=1e-12)
    tied = mean_average_precision(torch.zeros(1, 4), torch.tensor([[False, True, False, True]]))
    assert float(tied) == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_validation_is_the_mean_of_both_directions_over_the_whole_split(two_widths):
    validation = ClassValidation(two_widths)
    draw = torch.Generator().manual_seed(0)
    images, texts = torch.randn(20, 3, generator=draw), torch.randn(20, 3, generator=draw)
    labels = [set(v.split("|")) for v in two_widths.images["labels"][80:100]]
    expected = []
    for asking, offered in ((images, texts), (texts, images)):
        scores = (asking @ offered.T).tolist()
        expected += [
            plain_average_precision(row, [bool(own & other) for other in labels])
            for row, own in zip(scores, labels, strict=True)
        ]
    assert validation.map(images, texts) == pytest.approx(np.mean(expected), abs=1e-6)


def test_a_set_without_classes_is_told(two_widths):
    from dataclasses import replace

    bare = replace(two_widths, images=two_widths.images.drop(columns="labels"),
                   texts=two_widths.texts.drop(columns="labels"))  # fmt: skip
    with pytest.raises(UserError, match="two widths: has no classes"):
        ClassValidation(bare)


def test_pairs_know_the_classes_of_their_items(two_widths):
    pairs = TrainingPairs.gather(two_widths)
    assert pairs.images.shape == (80, 9)
    assert pairs.texts.shape == (80, 4)
    names = ["art", "music", "sport", "war"]
    for row, value in enumerate(two_widths.images["labels"][:80]):
        assert pairs.image_labels[row].tolist() == [float(name in value.split("|")) for name in names]
    assert torch.equal(pairs.image_labels, pairs.text_labels)


@pytest.mark.parametrize("name", ["cca", "dcca"])
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_a_projection_maps_two_widths_into_one_space_and_back_from_what_is_kept(two_widths, name, direction):
    values = {"epochs": 3, "batch_size": 40} if name == "dcca" else {}
    scorer = scorers.get(name, device="cpu", **values).fit(two_widths, direction)
    again = scorers.get(name, device="cpu", **values).load(scorer.config, scorer.state)
    asked, offered = two_widths.queries(direction)[100:], two_widths.candidates(direction)[100:]
    found = scorer.map_queries(asked) @ scorer.map_candidates(offered).T
    np.testing.assert_array_equal(found, again.map_queries(asked) @ again.map_candidates(offered).T)
    same = np.array(two_widths.images["labels"][100:])
    assert found[same[:, None] == same].mean() > found[same[:, None] != same].mean() + 0.3


@pytest.mark.parametrize("name", ["cca", "csls"])
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_a_search_among_features_of_two_kinds_finds_what_the_space_says(two_widths, tmp_path, name, direction):
    base = scorers.get("cca", device="cpu") if name == "csls" else None
    stack = fit_stack(scorers.get(name, device="cpu"), two_widths, direction, base=base, device=torch.device("cpu"))
    save(tmp_path, stack, {"direction": direction}, "a card")
    ranker = Reranker.from_pretrained(tmp_path, "cpu")
    asked, offered = two_widths.queries(direction)[100:], two_widths.candidates(direction)[100:]
    hits = ranker.index(offered).search(asked, k=20)
    space = stack.own_space
    cosine = space.map_queries(asked) @ space.map_candidates(offered).T
    found = np.take_along_axis(cosine, hits.rows, 1)
    np.testing.assert_allclose(hits.cosine, found, atol=1e-5)
    if name == "cca":
        assert (np.diff(found, axis=1) <= 1e-6).all()
    with pytest.raises(ValueError, match=r"queries have shape \(20, 7\)"):
        ranker.index(offered).search(np.zeros((20, 7)))
    with pytest.raises(ValueError, match="embeddings: row 3 is not finite"):
        ranker.index(np.where(np.arange(20)[:, None] == 3, np.nan, offered))
