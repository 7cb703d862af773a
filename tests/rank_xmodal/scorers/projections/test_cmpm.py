"""The CMPM loss against two plain loops."""

import math

import numpy as np
import pytest
import torch

from rank_xmodal.scorers.projections.cmpm import EPSILON, cmpm_loss


def plain(x, z, match):
    """Mean over i of the sum over j of p log(p / (q + epsilon)), x_i onto the normalised z_j."""
    total = 0.0
    for i in range(len(x)):
        logits = [sum(a * b for a, b in zip(x[i], zj, strict=True)) / math.sqrt(sum(b * b for b in zj)) for zj in z]
        exps = [math.exp(value) for value in logits]
        for j in range(len(z)):
            p = exps[j] / sum(exps)
            q = match[i][j] / sum(match[i])
            total += p * math.log(p / (q + EPSILON))
    return total / len(x)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_equals_two_plain_loops(seed):
    rng = np.random.default_rng(seed)
    image, text = rng.normal(size=(6, 4)), rng.normal(size=(6, 4)) * 2
    owner = np.array([0, 0, 1, 2, 2, 2])
    match = owner[:, None] == owner[None]
    match[0, 2] = True  # not symmetric: an image with a caption that its sibling doesn't have
    expected = plain(image.tolist(), text.tolist(), match.astype(int).tolist())
    expected += plain(text.tolist(), image.tolist(), match.T.astype(int).tolist())
    found = cmpm_loss(torch.from_numpy(image), torch.from_numpy(text), torch.from_numpy(match))
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_projections_that_tell_every_pair_apart_cost_nothing():
    image = 100 * torch.eye(4, dtype=torch.float64)
    assert float(cmpm_loss(image, image, torch.eye(4, dtype=torch.bool))) == pytest.approx(0, abs=1e-6)


def test_a_flat_softmax_costs_what_the_epsilon_says():
    """p = 1/2 everywhere: log(1/2 / 1) on the match, log(1/2 / epsilon) off it, in both directions."""
    found = cmpm_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.eye(2, dtype=torch.bool))
    assert float(found) == pytest.approx(2 * (0.5 * math.log(0.5) + 0.5 * math.log(0.5 / EPSILON)), rel=1e-5)


def test_extreme_projections_have_finite_gradients():
    image = (1e4 * torch.randn(8, 5, generator=torch.Generator().manual_seed(0))).requires_grad_()
    cmpm_loss(image, image.detach().flip(0), torch.eye(8, dtype=torch.bool)).backward()
    assert bool(torch.isfinite(image.grad).all())


def test_gradient():
    draw = torch.Generator().manual_seed(0)
    image, text = (torch.randn(4, 3, generator=draw, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: cmpm_loss(a, b, torch.eye(4, dtype=torch.bool)), (image, text))
