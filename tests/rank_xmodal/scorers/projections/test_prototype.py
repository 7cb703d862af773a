"""The prototype loss against a plain loop, centres learnt and fixed."""

import math

import numpy as np
import pytest
import torch

from rank_xmodal import scorers
from rank_xmodal.errors import UserError
from rank_xmodal.scorers.projections.class_training import Batch
from rank_xmodal.scorers.projections.objectives import prototype_loss
from rank_xmodal.scorers.projections.prototype import Prototype, Prototypes, drawn_centres

QUICK = {"device": "cpu", "epochs": 15, "lr": 5e-3, "hidden": 64, "batch_size": 64, "weight_decay": 0.0}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 1, 0], [1, 0, 1]], dtype=torch.float64)


def plain(x, centres, temperature):
    total = 0.0
    for item, labels in zip(x, LABELS.tolist(), strict=True):
        logits = [float(item @ c / (item.norm() * c.norm())) / temperature for c in centres]
        whole = math.log(sum(math.exp(v) for v in logits))
        total -= sum(y * (v - whole) for y, v in zip(labels, logits, strict=True)) / sum(labels)
    return total / len(x)


def test_the_loss_is_that_of_a_plain_loop_for_both_sides():
    x, z, centres = random(4, 5), random(4, 5, seed=1), random(3, 5, seed=2)
    assert float(prototype_loss(x, centres, LABELS, 0.2)) == pytest.approx(plain(x, centres, 0.2), rel=1e-9)
    batch = Batch(x, z, LABELS, LABELS, LABELS @ LABELS.T > 0)
    expected = plain(x, centres, 0.2) + plain(z, centres, 0.2)
    assert float(Prototypes(centres, False, 0.2)(x, z, batch)) == pytest.approx(expected, rel=1e-9)


def test_gradient():
    x, centres = random(4, 5).requires_grad_(), random(3, 5, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: prototype_loss(a, b, LABELS, 0.2), (x, centres))


def test_the_loss_does_not_overflow_where_it_is_sharp():
    x = torch.eye(3, requires_grad=True)
    value = prototype_loss(x, -torch.eye(3), torch.eye(3), 1e-4)  # logits down to -1e4
    value.backward()
    assert value.item() == pytest.approx(1e4 + math.log(2), rel=1e-5)
    assert bool(torch.isfinite(x.grad).all())


@pytest.mark.parametrize(("classes", "width"), [(5, 8), (8, 8), (12, 4)])
def test_centres_are_apart(classes, width):
    found = drawn_centres(classes, width, torch.Generator().manual_seed(0))
    assert found.shape == (classes, width)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(classes))
    if classes <= width:
        torch.testing.assert_close(found @ found.T, torch.eye(classes), rtol=0, atol=1e-6)


def test_fixed_centres_stay_and_learnt_ones_move():
    centres = torch.eye(3)
    assert list(Prototypes(centres, False, 0.1).parameters()) == []
    learnt = Prototypes(centres.clone(), True, 0.1)
    batch = Batch(torch.ones(4, 3), torch.ones(4, 3), LABELS.float(), LABELS.float(), LABELS @ LABELS.T > 0)
    learnt(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.ones(4, 3), batch).backward()
    assert float(learnt.centres.grad.abs().sum()) > 0


@pytest.mark.parametrize("centres", ["learnt", "fixed"])
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_it_finds_classes_that_cca_does_not_and_comes_back_from_what_is_kept(classed, centres, direction):
    linear = classed.class_map(scorers.get("cca", device="cpu").fit(classed.data, direction), classed.data)
    before = torch.get_rng_state()
    one, two = (Prototype(centres=centres, **QUICK).fit(classed.data, direction, seed=2) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one.state[key], two.state[key]) for key in one.state)
    assert classed.class_map(one, classed.data) > linear + 0.2
    again = Prototype(centres=centres, **QUICK).load(one.config, one.state)
    asked = classed.data.queries(direction)
    np.testing.assert_array_equal(one.map_queries(asked), again.map_queries(asked))


def test_without_classes_or_with_one_there_is_nothing_to_learn(classed):
    scorer = Prototype(**QUICK)
    with pytest.raises(UserError, match=r"scorer=prototype learns from classes, and the set has none. Give images"):
        scorer.fit(classed.without(classed.data, "labels"), "t2i")
    with pytest.raises(UserError, match=r"scorer=prototype .* has one class only. Check the column"):
        scorer.fit(classed.scattered(classes=1), "t2i")
    with pytest.raises(UserError, match="centres='drawn'"):
        Prototype(centres="drawn")
