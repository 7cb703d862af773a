"""The max of hinges against two plain loops."""

import math

import numpy as np
import pytest
import torch

from rank_xmodal.scorers.projections.vsepp import vsepp_loss


def plain(image, text, match, margin):
    def s(i, j):
        return float(image[i] @ text[j] / math.sqrt(image[i] @ image[i]) / math.sqrt(text[j] @ text[j]))

    total = 0.0
    for i in range(len(image)):
        worst_text = worst_image = 0.0
        for j in range(len(image)):
            if not match[i, j]:
                worst_text = max(worst_text, margin + s(i, j) - s(i, i))
            if not match[j, i]:
                worst_image = max(worst_image, margin + s(j, i) - s(i, i))
        total += worst_text + worst_image
    return total / len(image)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("margin", [0.05, 0.2])
def test_it_equals_two_plain_loops(seed, margin):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(7, 4))
    text = image + rng.normal(size=(7, 4)) * 0.4
    owner = np.array([0, 0, 1, 2, 2, 2, 3])
    match = owner[:, None] == owner[None]
    match[0, 2] = True
    found = vsepp_loss(torch.from_numpy(image), torch.from_numpy(text), torch.from_numpy(match), margin)
    assert float(found) == pytest.approx(plain(image, text, match, margin), rel=1e-9)


def test_siblings_are_never_negatives():
    """Pairs 0 and 1 are two captions of one image; each is nearer to the other's caption than to its own."""
    image = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    text = torch.tensor([[1.0, 0.5], [1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    match = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    loss = vsepp_loss(image, text, match)
    assert loss.item() == 0
    loss.backward()
    assert float(text.grad.abs().sum()) == 0
    assert vsepp_loss(image, text, torch.eye(3, dtype=torch.bool)).item() > 0


def test_only_the_hardest_negative_pulls():
    image = torch.eye(3)
    text = torch.tensor([[1.0, 0.0, 0.0], [0.9, 1.0, 0.0], [0.2, 0.0, 1.0]], requires_grad=True)
    one_way = vsepp_loss(image[:1], text[:1], torch.ones(1, 1, dtype=torch.bool))
    assert one_way.item() == 0  # nothing but its own
    vsepp_loss(image, text, torch.eye(3, dtype=torch.bool), margin=0.5).backward()
    assert float(text.grad[2].abs().sum()) == 0
    assert float(text.grad[1].abs().sum()) > 0


def test_gradient():
    draw = torch.Generator().manual_seed(0)
    image, text = (torch.randn(5, 3, generator=draw, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: vsepp_loss(a, b, torch.eye(5, dtype=torch.bool)), (image, text))
