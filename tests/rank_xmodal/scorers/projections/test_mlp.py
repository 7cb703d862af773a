"""Each loss against plain loops, an adversary that is felt, and networks that find classes where no line does."""

import math

import numpy as np
import pytest
import torch

from rank_xmodal import scorers
from rank_xmodal.errors import UserError
from rank_xmodal.scorers.projections import class_training
from rank_xmodal.scorers.projections.class_training import Batch
from rank_xmodal.scorers.projections.mlp import ACMR, DSCMR, MLP, Reconstruction
from rank_xmodal.scorers.projections.networks import Standardised, drawn
from rank_xmodal.scorers.projections.objectives import (
    class_likelihood,
    contrastive_loss,
    distance_loss,
    dscmr_loss,
    modality_loss,
    pairwise_likelihood,
    reverse,
    structure_loss,
)

OBJECTIVES = ["contrastive", "vse", "correlation", "reconstruction", "acmr", "dscmr"]
QUICK = {"device": "cpu", "epochs": 15, "lr": 5e-3, "hidden": 64, "batch_size": 64, "weight_decay": 0.0}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labelled(n, seed=0):
    """Return multi-hot labels (n, 3), each with a class, and which items share one."""
    draw = torch.Generator().manual_seed(seed)
    labels = (torch.rand(n, 3, generator=draw) < 0.3).double()
    labels[torch.arange(n), torch.arange(n) % 3] = 1
    return labels, labels @ labels.T > 0


def batch_of(n, seed=0):
    labels, match = labelled(n, seed)
    return Batch(random(n, 5, seed=seed + 1), random(n, 4, seed=seed + 2), labels, labels, match)


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def log_softmax(values, at):
    top = max(values)
    return values[at] - top - math.log(sum(math.exp(v - top) for v in values))


def test_contrast_is_that_of_a_plain_loop():
    x, z, match = random(6, 3), random(6, 3, seed=1), labelled(6)[1]
    expected = 0.0
    for one, other, same in ((x, z, match), (z, x, match.T)):
        for i in range(6):
            logits = [cosine(one[i], other[j]) / 0.2 for j in range(6)]
            found = [j for j in range(6) if same[i, j]]
            expected -= sum(log_softmax(logits, j) for j in found) / len(found) / 12
    assert float(contrastive_loss(x, z, match, 0.2)) == pytest.approx(expected, rel=1e-9)


def test_the_likelihood_of_classes_is_that_of_a_plain_loop():
    logits, (labels, _) = random(6, 3), labelled(6)
    expected = 0.0
    for row, own in zip(logits.tolist(), labels.tolist(), strict=True):
        expected -= sum(y * log_softmax(row, c) for c, y in enumerate(own)) / sum(own) / 6
    assert float(class_likelihood(logits, labels)) == pytest.approx(expected, rel=1e-9)


def test_the_likelihood_of_pairs_is_that_of_a_plain_loop_and_never_overflows():
    logits, match = random(5, 5), labelled(5)[1]
    expected = np.mean(
        [math.log(1 + math.exp(v)) - s * v for v, s in zip(logits.flatten().tolist(), match.flatten().tolist())]  # noqa: B905
    )
    assert float(pairwise_likelihood(logits, match)) == pytest.approx(expected, rel=1e-9)
    huge = torch.tensor([[1e4, -1e4], [1e4, -1e4]], requires_grad=True)  # exp of it is infinite
    value = pairwise_likelihood(huge, torch.tensor([[True, True], [False, False]]))
    value.backward()
    assert value.item() == 5_000.0
    assert huge.grad.tolist() == [[0.0, -0.25], [0.25, 0.0]]


def test_distances_are_those_of_plain_loops():
    x, z, a, b = random(5, 3), random(5, 3, seed=1), random(5, 6, seed=2), random(5, 4, seed=3)
    of_a, of_b = ([[float((t[i] - t[j]).norm()) for j in range(5)] for i in range(5)] for t in (a, b))
    mean_a, mean_b, expected = np.mean(of_a), np.mean(of_b), 0.0
    for i in range(5):
        for j in range(5):
            in_a, in_b = of_a[i][j] / mean_a, of_b[i][j] / mean_b
            expected += (float((x[i] - x[j]).norm()) - in_a) ** 2 + (float((z[i] - z[j]).norm()) - in_b) ** 2
            expected += (float((x[i] - z[j]).norm()) - (in_a + in_b) / 2) ** 2
    assert float(distance_loss(x, z, a, b)) == pytest.approx(expected / 25, rel=1e-9)


@pytest.mark.parametrize("distances", [0.0, 0.5])
def test_reconstruction_is_of_the_other_side(distances):
    batch, x, z = batch_of(6), random(6, 3, seed=7), random(6, 3, seed=8)
    scalings = (Standardised.of(batch.images).double(), Standardised.of(batch.texts).double())
    head = drawn(Reconstruction(scalings, (5, 4), 8, 3, distances), torch.Generator().manual_seed(0)).double()
    images, texts = ((t - t.mean(0)) / t.std(0, correction=0) for t in (batch.images, batch.texts))
    across = np.mean([float((head.to_text(x[i]).detach() - texts[i]).square().mean()) for i in range(6)])
    across += np.mean([float((head.to_image(z[i]).detach() - images[i]).square().mean()) for i in range(6)])
    expected = 0.8 * across + 0.2 * np.mean([float((x[i] - z[i]).norm()) ** 2 for i in range(6)])
    expected += distances * float(distance_loss(x, z, images, texts))
    assert head(x, z, batch).item() == pytest.approx(expected, rel=1e-5)  # statistics are kept in float32


def test_structure_is_that_of_a_plain_loop():
    x, z, match = random(6, 3), random(6, 3, seed=1), labelled(6, seed=3)[1]
    assert not match.all()
    near, others = [], []
    for i in range(6):
        for j in range(6):
            distance = float((x[i] / x[i].norm() - z[j] / z[j].norm()).norm())
            (near if match[i, j] else others).append(distance if match[i, j] else max(0.0, 1.3 - distance))
    expected = 2 * (np.mean(near) + np.mean(others))
    assert float(structure_loss(x, z, match, 1.3)) == pytest.approx(expected, rel=1e-9)


def test_structure_of_alike_items_alone_and_of_equal_ones_has_a_gradient():
    x = random(4, 3).requires_grad_()
    structure_loss(x, x.detach(), torch.ones(4, 4, dtype=torch.bool), 1.0).backward()
    assert bool(torch.isfinite(x.grad).all())


def test_the_adversarys_loss_is_that_of_a_plain_loop():
    image, text = random(4), random(4, seed=1)
    sigmoid = [1 / (1 + math.exp(-v)) for v in [*image.tolist(), *text.tolist()]]
    expected = -sum(math.log(p) for p in sigmoid[:4]) - sum(math.log(1 - p) for p in sigmoid[4:])
    assert float(modality_loss(image, text)) == pytest.approx(expected / 8, rel=1e-9)


def test_dscmr_is_that_of_plain_loops():
    x, z, p, q = random(6, 4), random(6, 4, seed=1), random(6, 3, seed=2), random(6, 3, seed=3)
    (y, _), (w, _) = labelled(6, seed=4), labelled(6, seed=5)
    label = np.mean([float((p[i] - y[i]).norm() + (q[i] - w[i]).norm()) for i in range(6)])
    alike = 0.0
    for one, other, of_one, of_other in ((x, z, y, w), (x, x, y, y), (z, z, w, w)):
        for i in range(6):
            for j in range(6):
                logit = cosine(one[i], other[j]) / 2
                alike += (math.log(1 + math.exp(logit)) - float(of_one[i] @ of_other[j] > 0) * logit) / 36
    apart = np.mean([float((x[i] - z[i]).norm()) for i in range(6)])
    found = float(dscmr_loss(x, z, p, q, y, w, pairwise=0.3, invariance=0.2))
    assert found == pytest.approx(label + 0.3 * alike + 0.2 * apart, rel=1e-9)


def test_gradients():
    labels, match = labelled(5, seed=3)
    x, z = random(5, 3).requires_grad_(), random(5, 3, seed=1).requires_grad_()
    p, q = random(5, 3, seed=2).requires_grad_(), random(5, 3, seed=3).requires_grad_()
    check = torch.autograd.gradcheck
    assert check(lambda a, b: contrastive_loss(a, b, match, 0.3), (x, z))
    assert check(lambda a: class_likelihood(a, labels), (x,))
    assert check(lambda a: pairwise_likelihood(a @ a.T, match), (x,))
    assert check(lambda a, b: distance_loss(a, b, p.detach(), q.detach()), (x, z))
    assert check(lambda a, b: structure_loss(a, b, match, 1.3), (x, z))
    assert check(lambda a, b: modality_loss(a[:, 0], b[:, 0]), (x, z))
    assert check(lambda a, b, c, d: dscmr_loss(a, b, c, d, labels, labels), (x, z, p, q))
    batch = batch_of(5)
    scalings = (Standardised.of(batch.images).double(), Standardised.of(batch.texts).double())
    head = drawn(Reconstruction(scalings, (5, 4), 8, 3, 0.5), torch.Generator().manual_seed(0)).double()
    assert check(lambda a, b: head(a, b, batch), (x, z))
    assert check(lambda a, b: drawn(DSCMR(3, 3).double(), torch.Generator().manual_seed(0))(a, b, batch), (x, z))


def differences(function, x, step=1e-6):
    """Return the gradient of a scalar function by central differences."""
    found = torch.zeros_like(x)
    for at in np.ndindex(*x.shape):
        near = x.detach().clone()
        near[at] += step
        up = function(near).item()
        near[at] -= 2 * step
        found[at] = (up - function(near).item()) / (2 * step)
    return found


def test_the_adversary_reaches_the_embeddings_reversed_and_itself_as_it_is():
    """Published code leaves the embeddings without this gradient: an adversary that nobody tries to fool."""
    batch, x, z = batch_of(6), random(6, 3, seed=7).requires_grad_(), random(6, 3, seed=8)
    head = drawn(ACMR(3, 3, margin=1.0, adversary=0.7), torch.Generator().manual_seed(0)).double()

    def told(image):
        return modality_loss(head.adversary(image)[:, 0], head.adversary(z)[:, 0])

    def rest(image):
        labels = class_likelihood(head.classifier(image), batch.image_labels)
        return labels + structure_loss(image, z, batch.match, 1.0)

    head(x, z, batch).backward()
    by_adversary = differences(told, x)
    assert float(by_adversary.abs().min()) > 1e-6
    torch.testing.assert_close(x.grad, differences(rest, x) - 0.7 * by_adversary, rtol=1e-5, atol=1e-8)
    weight = head.adversary[0].weight
    torch.testing.assert_close(weight.grad, torch.autograd.grad(told(x), weight)[0])


def test_reversing_changes_no_value():
    x = random(3).requires_grad_()
    out = reverse(x, 0.5)
    assert torch.equal(out, x)
    assert torch.autograd.grad(out.sum(), x)[0].tolist() == [-0.5] * 3


def test_standardised_features_have_mean_0_and_variance_1_and_constant_ones_are_0():
    table = torch.cat([random(50, 2).float() * 7 + 1_000, torch.full((50, 1), 0.1)], 1)
    found = Standardised.of(table)(table)
    assert found.mean(0).abs().max() < 1e-3
    assert found.std(0, correction=0).tolist() == pytest.approx([1, 1, 0], abs=1e-3)


@pytest.mark.parametrize(("objective", "space"), [*((o, "embedding") for o in OBJECTIVES), ("acmr", "posterior")])
def test_it_finds_classes_that_cca_does_not_and_comes_back_from_what_is_kept(classed, objective, space):
    linear = classed.class_map(scorers.get("cca", device="cpu").fit(classed.data, "t2i"), classed.data)
    values = {**QUICK, "objective": objective, "space": space}
    scorer = MLP(**values).fit(classed.data, "t2i")
    assert classed.class_map(scorer, classed.data) > linear + 0.2
    again = MLP(**values).load(scorer.config, scorer.state)
    for one, other in ((scorer.map_queries, again.map_queries), (scorer.map_candidates, again.map_candidates)):
        table = classed.data.text_emb if one == scorer.map_queries else classed.data.image_emb
        np.testing.assert_array_equal(one(table), other(table))


def test_posteriors_are_of_the_classes(classed):
    scorer = MLP(objective="acmr", space="posterior", **{**QUICK, "epochs": 2}).fit(classed.data, "i2t")
    found = scorer.maps[0](torch.from_numpy(classed.data.image_emb))
    assert found.shape == (480, 9)
    torch.testing.assert_close(found.sum(1), torch.ones(480))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_same_seed_same_tensors(classed, objective):
    before = torch.get_rng_state()
    values = {**QUICK, "epochs": 2, "objective": objective}
    one, two, other = (MLP(**values).fit(classed.data, "t2i", seed=seed).state for seed in (3, 3, 4))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)
    assert torch.equal(before, torch.get_rng_state())


def test_every_pair_counts_in_every_epoch(classed, monkeypatch):
    """300 pairs are no multiple of 64: the rest is not left out."""
    seen, taken = [], Batch.of
    monkeypatch.setattr(
        class_training.Batch, "of", classmethod(lambda cls, pairs, index: (seen.append(index), taken(pairs, index))[1])
    )
    MLP(**{**QUICK, "epochs": 2}).fit(classed.data, "t2i")
    steps = len(seen) // 2
    for epoch in (seen[:steps], seen[steps:]):
        assert sorted(np.concatenate(epoch)) == list(range(300))


def test_the_epoch_is_the_best_on_val_by_classes_and_without_val_the_last(classed):
    values = {**QUICK, "epochs": 4, "lr": 0.05}
    scorer = MLP(**values).fit(classed.data, "t2i")
    found = [figures["val_MAP"] for figures in scorer.history]
    assert len(found) == 5
    assert scorer.best_epoch == found.index(max(found))
    assert classed.class_map(scorer, classed.data, "val") == pytest.approx(max(found), abs=1e-6)
    last = MLP(**values).fit(classed.without(classed.data, split="val"), "t2i")
    assert last.best_epoch == 4
    assert "val_MAP" not in last.history[-1]


def test_nothing_is_learnt_from_test(classed):
    data = classed.scattered()
    test = (data.images["split"] == "test").to_numpy()
    data.image_emb[test], data.text_emb[test] = 100.0, -100.0
    for table in (data.images, data.texts):
        table.loc[test, "labels"] = "another"
    one, two = (MLP(**QUICK).fit(which, "t2i") for which in (classed.data, data))
    assert one.best_epoch == two.best_epoch
    assert all(torch.equal(one.state[key], two.state[key]) for key in one.state)


def test_several_classes_of_an_item(classed):
    names = ["a", "b", "c", "a|b", "b|c", "a|c"]
    data = classed.scattered(classes=6, names=names)
    for objective in ("contrastive", "acmr", "dscmr"):
        scorer = MLP(objective=objective, **{**QUICK, "epochs": 2}).fit(data, "i2t")
        assert scorer.history[-1]["val_MAP"] > scorer.history[0]["val_MAP"]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_classes_are_needed_where_they_are_learnt(classed, objective):
    bare = classed.without(classed.data, "labels")
    scorer = MLP(objective=objective, **{**QUICK, "epochs": 1})
    if objective in ("acmr", "dscmr"):
        with pytest.raises(UserError, match=f"objective={objective} learns from classes, and the set has none. Give"):
            scorer.fit(bare, "t2i")
        with pytest.raises(UserError, match=f"objective={objective} .* has one class only. Check the column 'labels'"):
            scorer.fit(classed.scattered(classes=1), "t2i")
    else:
        assert scorer.fit(bare, "t2i").best_epoch == 1


def test_settings_out_of_range_and_a_loss_that_explodes(classed):
    with pytest.raises(UserError, match="space=posterior goes with objective=acmr, found objective=dscmr"):
        MLP(objective="dscmr", space="posterior")
    with pytest.raises(UserError, match="temperature=0"):
        MLP(temperature=0)
    with pytest.raises(UserError, match=r"Lower lr=1e\+30"):
        MLP(**{**QUICK, "objective": "dscmr", "lr": 1e30}).fit(classed.data, "t2i")
