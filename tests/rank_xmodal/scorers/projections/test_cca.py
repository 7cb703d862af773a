"""CCA against planted correlations, scikit-learn, and numpy."""

import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import CCA as SklearnCCA

from rank_xmodal.scorers.projections.cca import CCA, RIDGES, Covariances, canonical, cca_maps


def planted(rho, n, seed=0, noise=2):
    """Return x and y whose canonical correlations are `rho`, both mixed and shifted, and some noise beside them."""
    rng = np.random.default_rng(seed)
    rho = np.array(rho)
    shared = rng.normal(size=(n, len(rho)))
    other = rho * shared + np.sqrt(1 - rho**2) * rng.normal(size=shared.shape)
    x = np.hstack([shared, rng.normal(size=(n, noise))])
    y = np.hstack([other, rng.normal(size=(n, noise + 1))])
    x, y = (table @ rng.normal(size=(table.shape[1],) * 2) + rng.normal(size=table.shape[1]) for table in (x, y))
    return torch.from_numpy(x), torch.from_numpy(y)


def covariances(x, y):
    rows = torch.arange(len(x))
    return Covariances.of_pairs(x, y, rows, rows)


def test_covariances_count_a_row_once_for_each_of_its_pairs():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(6, 4))
    left, right = np.array([0, 0, 1, 4, 4, 2, 0]), np.array([0, 1, 1, 5, 3, 2, 4])
    found = Covariances.of_pairs(*map(torch.from_numpy, (x, y, left, right)))
    whole = np.cov(np.hstack([x[left], y[right]]).T, bias=True)
    np.testing.assert_allclose(found.xx, whole[:3, :3], atol=1e-12)
    np.testing.assert_allclose(found.yy, whole[3:, 3:], atol=1e-12)
    np.testing.assert_allclose(found.xy, whole[:3, 3:], atol=1e-12)
    np.testing.assert_allclose(found.x_mean, x[left].mean(0), atol=1e-12)
    np.testing.assert_allclose(found.y_mean, y[right].mean(0), atol=1e-12)


def test_covariances_are_the_same_in_blocks(monkeypatch):
    x, y = planted([0.9], 50)
    whole = covariances(x, y)
    monkeypatch.setattr("rank_xmodal.scorers.projections.cca.BLOCK", 7)
    parts = covariances(x, y)
    for name in ("x_mean", "y_mean", "xx", "yy", "xy"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))


def test_planted_correlations_are_found():
    rho = canonical(covariances(*planted([0.95, 0.7, 0.4], 50_000)), ridge=0.0)[2]
    assert rho[:3].tolist() == pytest.approx([0.95, 0.7, 0.4], abs=0.01)
    assert rho[3:].max() < 0.02


def test_it_agrees_with_scikit_learn():
    x, y = planted([0.9, 0.6, 0.3], 400, seed=1)
    a, b, rho = canonical(covariances(x, y), ridge=0.0, components=3)
    other = SklearnCCA(n_components=3, max_iter=20_000, tol=1e-12).fit(x.numpy(), y.numpy())
    theirs_x, theirs_y = other.transform(x.numpy(), y.numpy())
    ours_x, ours_y = ((x - x.mean(0)) @ a).numpy(), ((y - y.mean(0)) @ b).numpy()
    for k in range(3):
        assert float(rho[k]) == pytest.approx(np.corrcoef(theirs_x[:, k], theirs_y[:, k])[0, 1], abs=1e-5)
        assert abs(np.corrcoef(ours_x[:, k], theirs_x[:, k])[0, 1]) == pytest.approx(1, abs=1e-4)
        assert abs(np.corrcoef(ours_y[:, k], theirs_y[:, k])[0, 1]) == pytest.approx(1, abs=1e-4)


def test_projections_are_white_and_correlate_in_pairs_alone():
    x, y = planted([0.9, 0.6, 0.3], 400, seed=2)
    a, b, rho = canonical(covariances(x, y), ridge=0.0)
    u, v = (x - x.mean(0)) @ a, (y - y.mean(0)) @ b
    eye = torch.eye(len(rho), dtype=torch.float64)
    torch.testing.assert_close(u.T @ u / len(u), eye)
    torch.testing.assert_close(v.T @ v / len(v), eye)
    torch.testing.assert_close(u.T @ v / len(u), torch.diag(rho))


def test_more_dimensions_than_pairs_stay_finite():
    x, y = (torch.randn(10, 30, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k in (0, 1))
    for ridge in (0.0, 0.1):
        assert all(bool(torch.isfinite(part).all()) for part in canonical(covariances(x, y), ridge))


def test_the_weights_are_powers_of_the_correlations():
    found = covariances(*planted([0.9, 0.5], 1000))
    a, b, rho = canonical(found, 0.1)
    for power in (0.0, 1.0, 4.0):
        on_x, on_y = cca_maps(found, 0.1, power)
        torch.testing.assert_close(on_x.weight, (a * rho**power).float())
        torch.testing.assert_close(on_y.weight, (b * rho**power).float())


def test_the_score_is_the_cosine_of_the_projections(corpus):
    cca = CCA(ridge=0.3).fit(corpus.data, "t2i")
    batch = corpus.random_batch(dim=24)
    image, text = cca.maps
    query, candidates = text(batch.query).numpy(), image(batch.candidates).numpy()
    found = cca.score(batch)
    for q in range(3):
        for c in range(7):
            one, two = query[q], candidates[q, c]
            expected = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
            assert float(found[q, c]) == pytest.approx(expected, abs=1e-5)


def test_validation_chooses_the_ridge(corpus):
    stage = corpus.held_out(corpus.data, "t2i")
    assert CCA().fit(corpus.data, "t2i", validation=stage).best_ridge in RIDGES
    assert CCA(ridge=0.5).fit(corpus.data, "t2i", validation=stage).best_ridge == 0.5


def test_a_second_fit_keeps_the_ridge_that_validation_chose(corpus):
    first = CCA().fit(corpus.data, "t2i", validation=corpus.held_out(corpus.data, "t2i"))
    assert first.refitting().fit(corpus.data, "t2i").best_ridge == first.best_ridge
