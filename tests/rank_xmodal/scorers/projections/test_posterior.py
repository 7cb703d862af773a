"""Each method of `posterior` against plain loops, dense algebra and the slope of its loss."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rank_xmodal.errors import UserError
from rank_xmodal.files.tensors import write_tensors
from rank_xmodal.scorers.projections.logistic import logistic
from rank_xmodal.scorers.projections.nearest import Nearest, nearest
from rank_xmodal.scorers.projections.pairs import TrainingPairs
from rank_xmodal.scorers.projections.posterior import Posterior
from tests.rank_xmodal.scorers.projections.planted import labelled, scores

METHODS = ("sm", "scm", "hsnn", "cmcp")


def fitted(method, data, direction="t2i", seed=0, **values):
    return Posterior(method=method, device="cpu", **values).fit(data, direction, seed=seed)


@pytest.mark.parametrize("kinds", [4, 2])
def test_the_loss_of_logistic_regression_has_no_slope(kinds):
    """Of classes [0 .. 3], of which an item may have two; with two kinds one class alone is never seen."""
    rng = np.random.default_rng(0)
    labels = torch.zeros(80, 4)
    labels[torch.arange(80), torch.from_numpy(rng.integers(0, kinds, 80))] = 1
    if kinds == 4:
        labels[::7, 1] = 1
    table = torch.from_numpy(rng.normal(size=(80, 5)) * 3 + 1).float()
    found = logistic(table, labels, penalty=0.01)
    mean, scale = table.double().mean(0), (table.double() - table.double().mean(0)).square().mean().sqrt()
    weight = (found[0].weight.double() * scale).requires_grad_()
    bias = (-found[1].mean.double()).requires_grad_()
    logits = (table.double() - mean) / scale @ weight + bias
    share = labels / labels.sum(1, keepdim=True)
    loss = -(share * logits.log_softmax(1)).sum(1).mean()
    # Of two classes scikit-learn penalises the one logit, W2 - W1, the only thing that both decide.
    penalty = weight.square().sum() if kinds == 4 else (weight[:, 1] - weight[:, 0]).square().sum()
    (loss + 0.01 / 2 * penalty).backward()
    assert float(weight.grad.abs().max()) < 2e-4
    assert float(bias.grad.abs().max()) < 2e-4
    torch.testing.assert_close(found(table), logits.softmax(1).float().detach(), atol=1e-4, rtol=1e-3)
    assert float(found(table)[:, kinds:].sum()) == 0


def test_scm_is_logistic_regression_on_white_components():
    data = labelled()
    scorer = fitted("scm", data, ridge=0.0, penalty=0.01)
    pairs = TrainingPairs.gather(data)
    white = scorer.maps[0][0](pairs.images).double()
    torch.testing.assert_close(white.T @ white / len(white), torch.eye(4).double(), atol=1e-4, rtol=0)
    again = logistic(white, pairs.image_labels, 0.01)
    torch.testing.assert_close(scorer.maps[0](pairs.images), again(white.float()), atol=1e-4, rtol=0)


def test_votes_are_those_of_a_plain_loop():
    data = labelled()
    scorer = fitted("hsnn", data, neighbours=5)
    pairs = TrainingPairs.gather(data)
    found = scores(scorer, data)
    votes = {}
    for side, known, labels, asking in (
        ("image", pairs.images, pairs.image_labels, data.image_emb),
        ("text", pairs.texts, pairs.text_labels, data.text_emb),
    ):
        known, labels = known.numpy(), labels.numpy()
        votes[side] = []
        for row in asking:
            near = sorted((float(np.abs(row - other).sum()), j) for j, other in enumerate(known))[:5]
            votes[side].append(sum(labels[j] / labels[j].sum() for _, j in near) / 5)
    np.testing.assert_allclose(found, np.array(votes["text"]) @ np.array(votes["image"]).T, atol=1e-6)


def test_propagation_is_that_of_all_pairs():
    """Over classes without overlap: a table of +1 and -1, spread on both graphs, read by new items' neighbours."""
    data = labelled(labels=["art", "sport", "music", "war"])
    k, alpha = 6, 0.6
    pairs = TrainingPairs.gather(data)
    ends = []
    for known, asking in ((pairs.images, data.image_emb), (pairs.texts, data.text_emb)):
        known = known.double().numpy()
        n = len(known)
        near = [sorted((np.abs(known[i] - known[j]).sum(), j) for j in range(n) if j != i)[:k] for i in range(n)]
        graph = {(i, j): distance for i in range(n) for distance, j in near[i]}
        mean = np.mean(list(graph.values()))
        weight = np.zeros((n, n))
        for (i, j), distance in graph.items():
            weight[i, j] = weight[j, i] = np.exp(-distance / mean)
        root = np.diag(1 / np.sqrt(weight.sum(1)))
        spread = (1 - alpha) * np.linalg.inv(np.eye(n) - alpha * root @ weight @ root)
        enter = np.zeros((len(asking), n))
        for i, row in enumerate(asking):
            for distance, j in sorted((np.abs(row - known[j]).sum(), j) for j in range(n))[:k]:
                enter[i, j] = np.exp(-distance / mean)
        ends.append(enter / enter.sum(1, keepdims=True) @ spread)
    n, m = len(pairs.images), len(pairs.texts)
    sign = np.array([[1 if (pairs.image_labels[i] * pairs.text_labels[j]).any() else -1 for j in range(m)]
                     for i in range(n)])  # fmt: skip
    expected = ends[0] @ sign @ ends[1].T
    for direction in ("i2t", "t2i"):
        found = scores(fitted("cmcp", data, direction, neighbours=k, alpha=alpha), data, direction)
        np.testing.assert_allclose(found, expected if direction == "i2t" else expected.T, atol=2e-5)


def test_the_nearest_are_the_same_in_blocks_and_in_any_shape(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    known, asking = torch.randn(30, 4, generator=draw), torch.randn(12, 4, generator=draw)
    module = Nearest(known, torch.randn(30, 3, generator=draw), 5, 1.0, scale=2.0)
    whole, answer = nearest(asking, known, 5), module(asking)
    monkeypatch.setattr("rank_xmodal.scorers.projections.nearest._ENTRIES", 70)
    for part, other in zip(nearest(asking, known, 5), whole, strict=True):
        torch.testing.assert_close(part, other)
    torch.testing.assert_close(module(asking.view(3, 4, 4)), answer.view(3, 4, 3))
    assert nearest(asking, known[:3], 5)[1].shape == (12, 3)


def test_similarities_are_those_of_numpy():
    data = labelled()
    plain = fitted("sm", data, penalty=0.01)
    texts, images = plain.map_queries(data.text_emb), plain.map_candidates(data.image_emb)
    np.testing.assert_allclose(texts.sum(1), 1, atol=1e-5)
    expected = {
        "dot": texts @ images.T,
        "cosine": texts @ images.T / np.outer(np.linalg.norm(texts, axis=1), np.linalg.norm(images, axis=1)),
        "correlation": np.corrcoef(texts, images)[: len(texts), len(texts) :],
    }
    for similarity, wanted in expected.items():
        found = fitted("sm", data, penalty=0.01, similarity=similarity)
        np.testing.assert_allclose(scores(found, data), wanted, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("similarity", ["dot", "correlation"])
def test_it_ranks_and_comes_back_from_what_is_kept(tmp_path, method, similarity):
    data = labelled()
    for direction in ("t2i", "i2t"):
        scorer = fitted(method, data, direction, similarity=similarity)
        write_tensors(tmp_path / "scorer.safetensors", scorer.state)
        kept = load_file(tmp_path / "scorer.safetensors")
        again = Posterior(scorer.settings).load(json.loads(json.dumps(scorer.config)), kept)
        np.testing.assert_array_equal(scores(scorer, data, direction), scores(again, data, direction))
        refitted = scorer.refitting().fit(labelled(held=False), direction)
        assert scorer.chosen.items() <= refitted.settings.model_dump().items()
        found = scores(scorer, data, direction)[-50:, -50:]
        labels = [set(v.split("|")) for v in data.images["labels"][-50:]]
        same = np.array([[bool(a & b) for b in labels] for a in labels])
        assert found[same].mean() > found[~same].mean() + 0.15


@pytest.mark.parametrize("method", METHODS)
def test_scale_and_order_change_nothing_nor_does_a_second_fit(method):
    data = labelled()
    expected = scores(fitted(method, data), data)
    np.testing.assert_array_equal(scores(fitted(method, data, seed=5), data), expected)
    large = labelled(scale=64.0)
    np.testing.assert_allclose(scores(fitted(method, large), large), expected, atol=5e-3)
    order = np.random.default_rng(3).permutation(150)
    mixed = labelled(order=order)
    np.testing.assert_allclose(scores(fitted(method, mixed), mixed), expected[np.ix_(order, order)], atol=5e-3)


@pytest.mark.parametrize("method", METHODS)
def test_what_can_not_be_fitted_is_told(method):
    data = labelled()
    broken = replace(data, text_emb=data.text_emb.copy())
    broken.text_emb[3, 2] = np.inf
    bare = replace(data, images=data.images.drop(columns="labels"), texts=data.texts.drop(columns="labels"))
    few = labelled(n=6, held=False)
    for table in (few.images, few.texts):
        table["labels"] = [f"a{k}|b{k}" for k in range(6)]
    for wrong, told in (
        (broken, "text row 3 are NaN or infinite"),
        (bare, "scorer=posterior: needs classes"),
        (labelled(labels=["art"]), "all of 1 class"),
        (few, "5 images .* for 10 classes"),
    ):
        with pytest.raises(UserError, match=told):
            fitted(method, wrong)
