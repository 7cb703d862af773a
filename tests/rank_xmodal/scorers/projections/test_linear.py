"""Each method of `linear` against another library, eigen-equations, gradients or plain loops."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.cross_decomposition import CCA as SklearnCCA
from sklearn.cross_decomposition import PLSSVD
from sklearn.metrics.pairwise import rbf_kernel

from rank_xmodal.errors import UserError
from rank_xmodal.files.tensors import write_tensors
from rank_xmodal.scorers.projections import reweighted, views
from rank_xmodal.scorers.projections.class_chosen import class_labels
from rank_xmodal.scorers.projections.linear import Linear
from rank_xmodal.scorers.projections.nearest import neighbour_graph
from rank_xmodal.scorers.projections.pairs import TrainingPairs
from tests.rank_xmodal.scorers.projections.planted import labelled, scores

METHODS = ("cca", "pls", "kcca", "cca3", "gmmfa", "jfssl", "jrl")


def fitted(method, data, direction="t2i", seed=0, **values):
    return Linear(method=method, device="cpu", **values).fit(data, direction, seed=seed)


def standards(data):
    pairs = TrainingPairs.gather(data)
    return pairs, views.Standard.of(pairs.images), views.Standard.of(pairs.texts), class_labels(pairs)


def test_cca_and_pls_agree_with_scikit_learn():
    data = labelled()
    pairs = TrainingPairs.gather(data)
    x, y = pairs.images.double().numpy(), pairs.texts.double().numpy()
    theirs = {
        "cca": SklearnCCA(n_components=3, max_iter=20_000, tol=1e-13).fit(x, y).transform(x, y),
        "pls": PLSSVD(n_components=3, scale=False).fit(x, y).transform(x, y),
    }
    for method, values in (("cca", {"ridge": 0.0}), ("pls", {})):
        scorer = fitted(method, data, power=0.0, components=3, **values)
        for ours, other in zip(
            (scorer.maps[0](pairs.images), scorer.maps[1](pairs.texts)), theirs[method], strict=True
        ):
            for k in range(3):
                assert abs(np.corrcoef(ours[:, k], other[:, k])[0, 1]) == pytest.approx(1, abs=1e-4), method


def test_random_features_approach_the_kernel(monkeypatch):
    monkeypatch.setattr(views, "FOURIER", 40_000)
    table = torch.from_numpy(np.random.default_rng(0).normal(size=(30, 4))).float()
    found = views.Fourier.drawn(table, torch.Generator().manual_seed(0))(table)
    width = torch.pdist(table).median()
    np.testing.assert_allclose(found @ found.T, rbf_kernel(table, gamma=float(1 / (2 * width**2))), atol=0.04)


def test_kcca_is_cca_of_its_features():
    pairs = TrainingPairs.gather(labelled())
    scorer = fitted("kcca", labelled(), ridge=0.1, power=0.0, components=3)
    u, v = scorer.maps[0](pairs.images).double(), scorer.maps[1](pairs.texts).double()
    cross = u.T @ v / len(u)
    assert torch.allclose(cross, torch.diag(cross.diagonal()), atol=1e-4)
    assert (cross.diagonal().diff() < 0).all()


def test_three_views_solve_their_eigen_equation():
    pairs, x, z, labels = standards(labelled())
    a, b, values = views.cca3(pairs, x, z, labels)(ridge=0.1)
    third = labels[0] - labels[0].mean(0)
    tables = [x.table, z.table, third]
    blocks = [np.cov(t.numpy().T, bias=True) for t in tables]
    whole = np.cov(torch.cat(tables, 1).numpy().T, bias=True)
    within = torch.block_diag(*[torch.from_numpy(s + 0.1 * np.trace(s) / len(s) * np.eye(len(s))) for s in blocks])
    for k in range(3):
        known = torch.cat([a[:, k], b[:, k]])
        matrix = torch.from_numpy(whole) - values[k] * within
        # The labels' directions follow from the other two.
        own = torch.linalg.solve(matrix[13:, 13:], -matrix[13:, :13] @ known)
        torch.testing.assert_close(matrix @ torch.cat([known, own]), torch.zeros(len(matrix)).double(), atol=1e-8,
                                   rtol=0)  # fmt: skip
    assert (values.diff() <= 1e-12).all()


def plain_graph(x, k, allowed):
    graph = np.zeros((len(x), len(x)))
    for i in range(len(x)):
        near = sorted((np.abs(x[i] - x[j]).sum(), j) for j in range(len(x)) if j != i and allowed(i, j))
        for _, j in near[:k]:
            graph[i, j] = graph[j, i] = 1
    return graph


def plain_spread(x, graph):
    total = np.zeros((x.shape[1],) * 2)
    for i, j in zip(*np.nonzero(graph), strict=True):
        total += np.outer(x[i] - x[j], x[i] - x[j]) / 2
    return total


def single(labels=("art", "sport", "music", "war")):
    return labelled(labels=list(labels))


def test_graphs_are_those_of_a_plain_loop():
    _, x, _, (labels, _) = standards(labelled())
    share = (labels @ labels.T > 0).numpy()
    table = x.table.numpy()
    for found, allowed in (
        (neighbour_graph(x.table, 6), lambda i, j: True),
        (neighbour_graph(x.table, 6, but=labels), lambda i, j: not share[i, j]),
    ):
        np.testing.assert_array_equal(found[0].toarray(), plain_graph(table, 6, allowed))
    _, x, _, (labels, _) = standards(single())
    share = (labels @ labels.T > 0).numpy()
    found = neighbour_graph(x.table, 6, like=labels)[0]
    np.testing.assert_array_equal(found.toarray(), plain_graph(x.table.numpy(), 6, lambda i, j: share[i, j]))


def test_gmmfa_has_the_largest_quotient_of_plain_loops():
    pairs, x, z, labels = standards(single())
    share = (labels[0] @ labels[0].T > 0).numpy()
    margins, within = [], []
    for side in (x, z):
        table = side.table.numpy()
        one = plain_spread(table, plain_graph(table, 20, lambda i, j: not share[i, j]))
        own = plain_spread(table, plain_graph(table, 10, lambda i, j: share[i, j]))
        margins.append(one / np.diag(one).mean())
        within.append(own / np.diag(own).mean() + 0.1 * np.eye(len(own)))
    between, inside = np.zeros((13, 13)), np.zeros((13, 13))
    between[:9, :9], between[9:, 9:], inside[:9, :9], inside[9:, 9:] = *margins, *within
    between[:9, 9:] = 10 * x.table.numpy().T @ z.table.numpy() / len(pairs)
    between[9:, :9] = between[:9, 9:].T
    a, b, values = views.gmmfa(pairs, x, z, labels)(ridge=0.1, coupling=10.0)
    vectors = torch.cat([a, b]).numpy()
    np.testing.assert_allclose(between @ vectors, inside @ vectors * values.numpy(), atol=1e-8)
    best = vectors[:, 0] @ between @ vectors[:, 0] / (vectors[:, 0] @ inside @ vectors[:, 0])
    for other in np.random.default_rng(0).normal(size=(200, 13)):
        assert other @ between @ other / (other @ inside @ other) <= best + 1e-9


def plain_links(pairs, tables, labels, by_pair):
    """Return all edges, (n + m, n + m), edge by edge."""
    n = len(tables[0])
    own = [plain_graph(t.numpy(), 10, lambda i, j: True) / 10 for t in tables]
    counts = [side.sum(0) for side in labels]
    across = np.zeros((n, len(tables[1])))
    for i in range(n):
        for j in range(len(tables[1])):
            common = labels[0][i] * labels[1][j]
            across[i, j] = float((common / (counts[0] * counts[1]).sqrt()).sum()) if not by_pair else 0
    if by_pair:
        across[pairs.image, pairs.text] = 1
    return np.block([[own[0], across], [across.T, own[1]]])


@pytest.mark.parametrize("by_pair", [False, True])
def test_sparse_regression_ends_where_the_plain_objective_has_no_slope(by_pair):
    pairs, x, z, labels = standards(labelled(n=60))
    tables, n = (x.table, z.table), len(x.table)
    across = reweighted.same_pair(pairs) if by_pair else reweighted.same_class(labels)
    problem = reweighted.SparseRegression(tables, labels, reweighted.links(tables, across))
    weight = torch.cat(problem.solve(sparsity=0.02, graph=0.5)).requires_grad_()

    edges = plain_links(pairs, tables, labels, by_pair)
    root = 1 / np.sqrt(edges.sum(1))

    def objective(weight):
        mapped = torch.cat([tables[0] @ weight[:9], tables[1] @ weight[9:]])
        scaled = torch.from_numpy(root)[:, None] * mapped
        total = 0.02 * (weight.square().sum(1) + reweighted.SMOOTH).sqrt().sum()
        for table, own, found in zip(tables, labels, mapped.split(n), strict=True):
            target = own / own.sum(1, keepdim=True)
            total = total + (found - (target - target.mean(0))).square().sum() / len(table)
        for i, j in zip(*np.nonzero(edges), strict=True):  # every edge twice, so a half of it
            total = total + 0.5 * 0.5 * edges[i, j] * (scaled[i] - scaled[j]).square().sum() / n
        return total

    value = objective(weight)
    value.backward()
    least = value.item()
    assert float(weight.grad.abs().max()) < 1e-3
    draw = torch.Generator().manual_seed(0)
    for _ in range(5):  # convex: no other place is better
        other = weight.detach() + 0.05 * torch.randn(weight.shape, generator=draw, dtype=torch.float64)
        assert float(objective(other)) > least


def test_reweighting_never_raises_the_objective_and_drops_features_without_use():
    pairs, x, z, labels = standards(labelled())
    noise = torch.randn(len(x.table), 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tables = (torch.cat([x.table, noise], 1), z.table)
    problem = reweighted.SparseRegression(tables, labels, reweighted.links(tables, reweighted.same_pair(pairs)))
    seen, objective = [], problem.objective
    problem.objective = lambda *args: seen.append(objective(*args)) or seen[-1]
    u, _ = problem.solve(sparsity=0.15, graph=0.1)
    assert len(seen) > 3
    assert all(after <= before + 1e-12 for before, after in pairwise(seen))
    assert u[9:].norm(dim=1).max() < 0.1 * u[:9].norm(dim=1).max()


def test_jrl_counts_the_votes_of_both_sides():
    data = labelled()
    scorer = fitted("jrl", data, sparsity=0.01, graph=0.1, neighbours=7)
    pairs = TrainingPairs.gather(data)
    image, text = scorer.maps[0][0], scorer.maps[1][0]
    known = torch.cat([image(pairs.images), text(pairs.texts)]).numpy()
    owned = torch.cat([pairs.image_labels, pairs.text_labels]).numpy()
    for k in range(5):
        place = image(torch.from_numpy(data.image_emb[k])).numpy()
        near = np.argsort(np.linalg.norm(known - place, axis=1))[:7]
        expected = np.mean([owned[j] / owned[j].sum() for j in near], axis=0)
        np.testing.assert_allclose(scorer.maps[0](torch.from_numpy(data.image_emb[k])), expected, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_it_ranks_and_comes_back_from_what_is_kept(tmp_path, method):
    data = labelled()
    for direction in ("t2i", "i2t"):
        scorer = fitted(method, data, direction)
        write_tensors(tmp_path / "scorer.safetensors", scorer.state)
        kept = load_file(tmp_path / "scorer.safetensors")
        again = Linear(scorer.settings).load(json.loads(json.dumps(scorer.config)), kept)
        np.testing.assert_array_equal(scores(scorer, data, direction), scores(again, data, direction))
        refitted = scorer.refitting().fit(labelled(held=False), direction)
        assert refitted.chosen == {}
        assert {**scorer.chosen}.items() <= refitted.settings.model_dump().items()
        found = scores(scorer, data, direction)[-50:, -50:]
        labels = [set(v.split("|")) for v in data.images["labels"][-50:]]
        same = np.array([[bool(a & b) for b in labels] for a in labels])
        assert found[same].mean() > found[~same].mean() + 0.15


@pytest.mark.parametrize("method", METHODS)
def test_scale_and_order_change_nothing_nor_does_a_second_fit(method):
    data = labelled()
    expected = scores(fitted(method, data), data)
    np.testing.assert_array_equal(scores(fitted(method, data), data), expected)
    large = labelled(scale=64.0)
    np.testing.assert_allclose(scores(fitted(method, large), large), expected, atol=5e-3)
    if method != "kcca":  # whose width is the median of what is drawn
        # Votes tie, equal scores keep the gallery's order, and so other settings may look best.
        values = {"neighbours": 20, "graph": 1.0, "sparsity": 0.01} if method == "jrl" else {}
        order = np.random.default_rng(3).permutation(150)
        mixed = labelled(order=order)
        found, expected = scores(fitted(method, mixed, **values), mixed), scores(fitted(method, data, **values), data)
        np.testing.assert_allclose(found, expected[np.ix_(order, order)], atol=5e-3)


def test_another_seed_draws_other_features():
    data = labelled()
    assert not np.allclose(scores(fitted("kcca", data, seed=1), data), scores(fitted("kcca", data), data))


def test_settings_are_chosen_on_val_and_what_is_given_stays():
    data = labelled()
    scorer = fitted("jfssl", data, sparsity=0.5)
    assert list(scorer.chosen) == ["graph"]
    assert fitted("jfssl", labelled(held=False)).chosen == {"graph": 1.0, "sparsity": 0.01}


@pytest.mark.parametrize("method", METHODS)
def test_what_can_not_be_fitted_is_told(method):
    data = labelled()
    broken = replace(data, image_emb=data.image_emb.copy())
    broken.image_emb[3, 2] = np.nan
    with pytest.raises(UserError, match="image row 3 are NaN"):
        fitted(method, broken)
    bare = replace(data, images=data.images.drop(columns="labels"), texts=data.texts.drop(columns="labels"))
    one = labelled(labels=["art"])
    few = labelled(n=6, held=False)
    for table in (few.images, few.texts):
        table["labels"] = [f"a{k}|b{k}" for k in range(6)]
    if method in ("cca", "pls", "kcca"):
        assert fitted(method, bare).maps is not None
        return
    for wrong, told in ((bare, "set has none"), (one, "all of 1 class"), (few, "5 images .* for 10 classes")):
        with pytest.raises(UserError, match=told):
            fitted(method, wrong)


def test_an_unknown_method_is_told():
    with pytest.raises(UserError, match="method='lda'"):
        Linear(method="lda")
