"""DCCA's loss against numpy, its gradient where eigenvalues are equal, and a plant that no line can see."""

import numpy as np
import pytest
import torch

from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.judging import per_query
from rank_xmodal.lists.list_tensors import ListTensors
from rank_xmodal.lists.scoring import score_lists
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.retrieval.query_bank import neighbours
from rank_xmodal.scorers.projections.cca import CCA, Covariances, canonical
from rank_xmodal.scorers.projections.dcca import DCCA, dcca_loss


def random(n, k, seed):
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inverse_root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(values**-0.5) @ vectors.T


@pytest.mark.parametrize(("n", "k", "r"), [(50, 4, 1e-4), (30, 8, 1e-2), (6, 8, 0.1)])
def test_the_loss_is_minus_the_sum_of_the_singular_values_of_t(n, k, r):
    x, y = random(n, k, 0), random(n, k, 1)
    y = y + x
    a, b = (v.numpy() - v.numpy().mean(0) for v in (x, y))
    s11, s22, s12 = a.T @ a / (n - 1) + r * np.eye(k), b.T @ b / (n - 1) + 2 * r * np.eye(k), a.T @ b / (n - 1)
    expected = np.linalg.svd(inverse_root(s11) @ s12 @ inverse_root(s22), compute_uv=False).sum()
    assert float(dcca_loss(x, y, r, 2 * r)) == pytest.approx(-expected, rel=1e-9)


def test_the_loss_of_equal_views_is_minus_their_width():
    x = random(100, 5, 0)
    assert float(dcca_loss(x, 3 * x + 1, 1e-12, 1e-12)) == pytest.approx(-5, abs=1e-6)


def test_the_loss_agrees_with_linear_cca():
    x, y = random(200, 4, 0), random(200, 4, 1)
    y = y + 0.5 * x
    rows = torch.arange(200)
    rho = canonical(Covariances.of_pairs(x, y, rows, rows), ridge=0.0)[2]
    assert float(dcca_loss(x, y, 1e-12, 1e-12)) == pytest.approx(-float(rho.sum()), abs=1e-6)


def test_gradient():
    x, y = random(12, 3, 0).requires_grad_(), random(12, 3, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: dcca_loss(a, b, 1e-2, 1e-2), (x, y))


def test_the_gradient_is_right_where_all_eigenvalues_are_equal():
    """An orthogonal X has the covariance I / (n - 1): an eigenvector's gradient would divide by zero there."""
    full = torch.linalg.qr(torch.cat([torch.ones(12, 1, dtype=torch.float64), random(12, 6, 0)], 1))[0]
    x, y = full[:, 1:4].clone().requires_grad_(), (full[:, 1:4] + full[:, 4:7]).clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: dcca_loss(a, b, 1e-2, 1e-2), (x, y))


@pytest.mark.parametrize("case", ["constant", "equal columns", "fewer rows than columns", "huge", "tiny"])
def test_gradients_stay_finite(case):
    x, y = random(40, 6, 0).float(), random(40, 6, 1).float()
    if case == "constant":
        x = torch.ones_like(x)
    elif case == "equal columns":
        x = x[:, :1].expand(-1, 6).clone()
    elif case == "fewer rows than columns":
        x, y = x[:3], y[:3]
    else:
        x = x * (1e4 if case == "huge" else 1e-6)
    x.requires_grad_()
    dcca_loss(x, y, 1e-3, 1e-3).backward()
    assert bool(torch.isfinite(x.grad).all())


def doubled_angles(corpus, n=2500, circles=3):
    """Images are points on circles, captions those with the angles doubled: uncorrelated, yet fixed by the image."""
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, size=(n, circles))
    image, text = (np.hstack([np.cos(a), np.sin(a)]) for a in (angle, 2 * angle))
    split = np.array(["train"] * (n - 500) + ["val"] * 250 + ["test"] * 250)
    return corpus.embedding_set(image, text, np.stack([np.arange(n)] * 2, axis=1), split, split)


def test_it_sees_what_linear_cca_does_not(corpus):
    data = doubled_angles(corpus)
    stage = rank_gallery(data, "t2i", "test", depth=250)
    near = neighbours(data.image_emb, data.text_emb[:100])
    tensors = ListTensors.gather(data, stage.lists, near.of, torch.device("cpu"), in_bank=False)
    found = {}
    for scorer in (CCA(), DCCA(epochs=60, batch_size=500, lr=3e-3, r1=1.0, r2=1.0, weight_decay=1e-3)):
        scorer.fit(data, "t2i")
        found[scorer.name] = float(per_query(score_lists(scorer, tensors), stage)["MRR"].mean())
    assert found["cca"] < 0.1
    assert found["dcca"] > 0.7


def test_few_pairs_get_few_outputs(corpus):
    data = corpus.planted(images=20)
    scorer = DCCA(epochs=2, hidden=16).fit(data, "t2i")
    assert scorer.maps[0][1].weight.shape[1] == 5
    assert bool(torch.isfinite(scorer.score(corpus.random_batch(dim=24))).all())


@pytest.mark.parametrize("wrong", [{"lr": 1e30}, {"r1": 0.0, "batch_size": 4}])
def test_outputs_without_an_inverse_are_an_error_that_can_be_mended(corpus, wrong):
    with pytest.raises(UserError, match=r"[Ll]ower lr="):
        DCCA(epochs=3, hidden=16, **wrong).fit(corpus.data, "t2i")
