"""Class-level figures against sets and loops in plain Python, and against scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_curve,
    precision_recall_fscore_support,
)

from rank_xmodal.errors import UserError
from rank_xmodal.evaluation import class_level
from rank_xmodal.retrieval.gallery import rank_gallery

ONE = ("cat", "dog", "eel")
SEVERAL = ("cat", "dog", "cat|dog", "dog|eel", "ant|bee|cat", "fox")


def labelled(corpus, names, images=60, seed=0, d=6):
    """A set whose images and captions (two an image) carry one of `names`; a third of it each train, val and test."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(images, d))
    owner = np.repeat(np.arange(images), 2)
    text = image[owner] + rng.normal(size=(len(owner), d))
    split = np.resize(["train", "val", "test"], images)
    data = corpus.embedding_set(image, text, np.stack([owner, np.arange(len(owner))], 1), split, split[owner])
    own = rng.choice(names, images)
    return replace(data, images=data.images.assign(labels=own), texts=data.texts.assign(labels=own[owner]))


@pytest.fixture(params=["t2i", "i2t"])
def direction(request):
    return request.param


def sides(data, direction):
    return (data.texts, data.images) if direction == "t2i" else (data.images, data.texts)


def truth(data, direction, split="test"):
    """For each query of the split: its row, and what it shares a class with, by row of the split's gallery."""
    asked, offered = sides(data, direction)
    gallery = np.flatnonzero(offered["split"] == split)
    rows = np.flatnonzero(asked["split"] == split)
    shares = [
        [bool({*asked["labels"][q].split("|")} & {*offered["labels"][c].split("|")}) for c in gallery] for q in rows
    ]
    return rows, gallery, np.array(shares)


def whole(data, direction, stage, scores, split="test"):
    """Spread the lists' scores (Q, L) over the whole gallery; what isn't listed is at -1e9."""
    _, gallery, shares = truth(data, direction, split)
    place = {row: i for i, row in enumerate(gallery)}
    out = np.full(shares.shape, -1e9)
    for i, (rows, values) in enumerate(zip(stage.lists.candidates, np.asarray(scores), strict=True)):
        out[i, [place[row] for row in rows]] = values
    return out


@pytest.mark.parametrize("names", [ONE, SEVERAL, ("only",)])
def test_relevance_is_a_shared_class(corpus, direction, names):
    data = labelled(corpus, names)
    stage = rank_gallery(data, direction, "test", depth=9)
    found = class_level.by_class(data, stage)
    rows, gallery, shares = truth(data, direction)
    assert found.lists.query.tolist() == rows.tolist()
    assert found.n_relevant.tolist() == shares.sum(1).tolist()
    place = {row: i for i, row in enumerate(gallery)}
    listed = [[int(shares[i, place[c]]) for c in row] for i, row in enumerate(stage.lists.candidates)]
    assert found.lists.labels.tolist() == listed
    assert (stage.lists.labels <= found.lists.labels).all(), "its own counterpart shares every class"
    assert found.lists.info["relevance"] == "class"


def test_many_queries_are_worked_on_in_blocks(corpus, direction, monkeypatch):
    data = labelled(corpus, SEVERAL)
    stage = rank_gallery(data, direction, "test")
    at_once = class_level.by_class(data, stage)
    monkeypatch.setattr(class_level, "_BLOCK", 3)
    assert np.array_equal(class_level.by_class(data, stage).lists.labels, at_once.lists.labels)
    assert torch.equal(class_level.by_class(data, stage).n_relevant, at_once.n_relevant)


@pytest.mark.parametrize("names", [ONE, SEVERAL])
def test_over_the_whole_gallery_map_is_scikit_learns(corpus, direction, names):
    data = labelled(corpus, names)
    stage = rank_gallery(data, direction, "test", depth=1_000)
    _, _, shares = truth(data, direction)
    assert stage.lists.length == shares.shape[1]
    scores = torch.rand(stage.lists.labels.shape, generator=torch.Generator().manual_seed(0))
    spread = whole(data, direction, stage, scores)
    expected = np.mean([average_precision_score(y, s) for y, s in zip(shares, spread, strict=True)])
    found = class_level.figures(scores, class_level.by_class(data, stage))
    assert found["MAP"] == pytest.approx(expected)
    assert class_level.ceiling(class_level.by_class(data, stage))["MAP"] == pytest.approx(1.0)


@pytest.mark.parametrize("ties", [False, True])
def test_figures_by_loops_ties_counted_against(corpus, direction, ties):
    data = labelled(corpus, SEVERAL)
    stage = class_level.by_class(data, rank_gallery(data, direction, "test", depth=12))
    scores = torch.rand(stage.lists.labels.shape, generator=torch.Generator().manual_seed(1))
    scores = (4 * scores).floor() if ties else scores
    expected = {name: [] for name in class_level.METRICS}
    for row, labels, relevant in zip(
        scores.tolist(), stage.lists.labels.tolist(), stage.n_relevant.tolist(), strict=True
    ):
        ranked = [y for _, y in sorted(zip(row, labels, strict=True), key=lambda item: (-item[0], item[1]))]
        precision = [sum(ranked[: r + 1]) / (r + 1) * y for r, y in enumerate(ranked)]
        for k in (5, 10, 50):
            expected[f"MAP@{k}"].append(sum(precision[:k]) / relevant)
        expected["MAP"].append(sum(precision) / relevant)
        expected["recall@10"].append(sum(ranked[:10]) / relevant)
        for k in (1, 10):
            expected[f"hit_rate@{k}"].append(any(ranked[:k]))
    found = class_level.figures(scores, stage)
    assert found == pytest.approx({name: np.mean(values) for name, values in expected.items()})
    best = class_level.ceiling(stage)
    assert all(found[name] <= best[name] for name in found)
    reachable = [
        min(5, sum(y)) / r for y, r in zip(stage.lists.labels.tolist(), stage.n_relevant.tolist(), strict=True)
    ]
    assert best["MAP@5"] == pytest.approx(np.mean(reachable))


def by_hand(corpus):
    """One caption a class over images at 0, 10, 20, 30 degrees of it: cat cat dog cat, and the list holds three."""
    degrees = np.radians([0, 10, 20, 30])
    image = np.stack([np.cos(degrees), np.sin(degrees)], 1)
    text = np.array([[1.0, 0.0], [np.cos(np.radians(35)), np.sin(np.radians(35))]])
    data = corpus.embedding_set(image, text, [(0, 0), (2, 1)], ["test"] * 4, ["test"] * 2)
    return replace(
        data,
        images=data.images.assign(labels=["cat", "cat", "dog", "cat"]),
        texts=data.texts.assign(labels=["cat", "dog"]),
    )


def test_by_hand(corpus):
    data = by_hand(corpus)
    stage = class_level.by_class(data, rank_gallery(data, "t2i", "test", depth=3))
    # "cat" sees cat cat dog of three cats: (1 + 1) / 3. "dog", at 35 degrees, sees cat dog cat: 1/2 of one dog.
    assert stage.lists.labels.tolist() == [[1, 1, 0], [0, 1, 0]]
    assert stage.n_relevant.tolist() == [3, 1]
    found = class_level.figures(torch.from_numpy(stage.lists.cosine), stage)
    assert found["MAP"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert (found["hit_rate@1"], found["hit_rate@10"]) == (0.5, 1.0)
    assert found["recall@10"] == pytest.approx((2 / 3 + 1) / 2)
    assert class_level.ceiling(stage)["MAP"] == pytest.approx((2 / 3 + 1) / 2)
    assert class_level.listed_matches(stage) == 3 / 4
    classes, single = class_level.classes_met(data, stage)
    assert (classes, single) == (["cat", "dog"], True)
    counts = class_level.confusion(data, stage, torch.from_numpy(stage.lists.cosine), classes)
    assert counts == [[1, 0], [1, 0]]
    # At 0.95: cosines 1, 0.98, 0.94 of "cat" and 0.996, 0.966, 0.906 of "dog".
    val = (torch.tensor([[0.95, 0.5]]), one_list([1, 0]))
    pairs = class_level.matched_pairs(torch.from_numpy(stage.lists.cosine), stage, val)
    assert (pairs["tp"], pairs["fp"], pairs["fn"], pairs["tn"]) == (3, 1, 1, 3)
    assert pairs["threshold"] == pytest.approx(0.95)
    assert (pairs["precision"], pairs["recall"], pairs["f1"]) == (0.75, 0.75, 0.75)


def one_list(labels):
    from rank_xmodal.data.candidate_lists import CandidateLists
    from rank_xmodal.retrieval.gallery import RankedGallery

    row = np.array([labels], dtype=np.int8)
    lists = CandidateLists(np.zeros(1, np.int32), np.arange(len(labels))[None], row, np.zeros(row.shape, np.float32))
    return RankedGallery(lists, torch.tensor([sum(labels)]), torch.tensor([torch.inf]), len(labels))


@pytest.mark.parametrize("depth", [7, 1_000])
def test_pairs_are_scikit_learns_over_all_queries_and_the_whole_gallery(corpus, direction, depth):
    data = labelled(corpus, SEVERAL)
    stages = {split: rank_gallery(data, direction, split, depth) for split in ("val", "test")}
    draw = torch.Generator().manual_seed(2)
    scores = {
        split: (8 * torch.rand(stage.lists.labels.shape, generator=draw)).floor() for split, stage in stages.items()
    }
    by_class = {split: class_level.by_class(data, stage) for split, stage in stages.items()}
    found = class_level.matched_pairs(scores["test"], by_class["test"], (scores["val"], by_class["val"]))
    truths = {split: truth(data, direction, split)[2].ravel() for split in stages}
    spread = {split: whole(data, direction, stages[split], scores[split], split).ravel() for split in stages}
    precision, recall, thresholds = precision_recall_curve(truths["val"], spread["val"])
    f1 = (2 * precision * recall / (precision + recall).clip(1e-12))[:-1]
    f1[thresholds < 0] = -1  # what isn't listed can't be called a match
    assert found["threshold"] == thresholds[f1 == f1.max()].max()
    called = spread["test"] >= found["threshold"]
    reference = precision_recall_fscore_support(truths["test"], called, average="binary", zero_division=0)[:3]
    assert (found["precision"], found["recall"], found["f1"]) == pytest.approx(reference)
    expected = confusion_matrix(truths["test"], called).tolist()
    assert [[found["tn"], found["fp"]], [found["fn"], found["tp"]]] == expected
    listed = truths["test"][spread["test"] > -1e9].sum() / truths["test"].sum()
    assert class_level.listed_matches(by_class["test"]) == pytest.approx(listed)


def test_csls_for_pairs_has_the_querys_own_term(corpus, direction):
    data = labelled(corpus, ONE)
    stage = rank_gallery(data, direction, "test", depth=15)
    scores = torch.rand(stage.lists.labels.shape)
    asked = np.asarray(data.queries(direction)[stage.lists.query], np.float64)
    offered = np.asarray(data.candidates(direction)[data.candidate_rows(direction, "test")], np.float64)
    own = np.sort(asked @ offered.T, axis=1)[:, -10:].mean(axis=1)
    found = class_level.pair_scores("csls", scores, stage)
    assert np.abs(found.numpy() - (scores.numpy() - own[:, None])).max() < 1e-6
    assert class_level.pair_scores("ranker", scores, stage) is scores


def test_the_confusion_matrix_is_scikit_learns_and_its_diagonal_the_hit_rate(corpus, direction):
    data = labelled(corpus, ONE)
    stage = class_level.by_class(data, rank_gallery(data, direction, "test", depth=15))
    classes, single = class_level.classes_met(data, stage)
    assert single
    for levels in (1_000_000, 4, 1):  # no ties, some, all
        scores = (levels * torch.rand(stage.lists.labels.shape, generator=torch.Generator().manual_seed(3))).floor()
        counts = class_level.confusion(data, stage, scores, classes)
        assert np.trace(counts) / len(stage.lists) == class_level.figures(scores, stage)["hit_rate@1"]
        if levels > 4:
            asked, offered = sides(data, direction)
            top = stage.lists.candidates[np.arange(len(stage.lists)), scores.argmax(1).numpy()]
            pairs = zip(asked["labels"].to_numpy()[stage.lists.query], offered["labels"].to_numpy()[top], strict=True)
            expected = [[0] * len(classes) for _ in classes]
            for actual, found in pairs:
                expected[classes.index(actual)][classes.index(found)] += 1
            assert counts == expected


def test_several_classes_are_seen_and_missing_labels_named(corpus, direction):
    data = labelled(corpus, SEVERAL)
    stage = rank_gallery(data, direction, "test")
    assert class_level.classes_met(data, stage) == (["ant", "bee", "cat", "dog", "eel", "fox"], False)
    with pytest.raises(UserError, match=r"has no classes\. Give the captions table a column 'labels'"):
        class_level.by_class(corpus.data, rank_gallery(corpus.data, direction, "test"))
