"""Codes of bits: losses against plain loops, inner products that are Hamming distances, and what they find."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from rank_xmodal import scorers
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.judging import per_query
from rank_xmodal.lists.scoring import score_lists
from rank_xmodal.scorers.projections.class_training import Batch
from rank_xmodal.scorers.projections.hash import Hash, JointSemantics, LabelTeacher
from rank_xmodal.scorers.projections.hash_objectives import (
    balance_loss,
    dcmh_loss,
    djsrh_loss,
    joint_similarity,
    quantisation_loss,
    signs,
    teacher_loss,
)
from rank_xmodal.scorers.projections.networks import Standardised, drawn

OBJECTIVES = ["dcmh", "ssah", "djsrh", "contrastive"]
QUICK = {"device": "cpu", "epochs": 15, "lr": 5e-3, "hidden": 64, "batch_size": 64, "bits": 32}
MATCH = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]]).bool()
LABELS = torch.tensor([[1, 0], [0, 1], [0, 1], [1, 0]], dtype=torch.float64)


def codes(n=4, k=6, seed=0):
    return torch.rand(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 1.8 - 0.9


def plain_pairs(f, g):
    found = [
        math.log(1 + math.exp(float(f[i] @ g[j]) / 2)) - float(MATCH[i, j]) * float(f[i] @ g[j]) / 2
        for i in range(4)
        for j in range(4)
    ]
    return np.mean(found)


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def test_dcmh_is_that_of_a_plain_loop_and_never_overflows():
    f, g = codes(), codes(seed=1)
    assert float(dcmh_loss(f, g, MATCH)) == pytest.approx(plain_pairs(f, g), rel=1e-9)
    far = torch.tensor([[2e4], [-2e4]], requires_grad=True)  # logits of 1e4 either way
    value = dcmh_loss(far, torch.ones(2, 1), torch.tensor([[False, True], [True, False]]))
    value.backward()
    assert value.item() == pytest.approx(5_000)
    assert bool(torch.isfinite(far.grad).all())


def test_quantisation_and_balance_are_those_of_plain_loops():
    f, g = codes(), codes(seed=1)
    apart = 0.0
    for i in range(4):
        for bit in range(6):
            shared = 1.0 if f[i, bit] + g[i, bit] >= 0 else -1.0
            apart += float((f[i, bit] - shared) ** 2 + (g[i, bit] - shared) ** 2) / 24
    assert float(quantisation_loss(f, g)) == pytest.approx(apart, rel=1e-9)
    uneven = sum((sum(t[i, bit] for i in range(4)) / 4) ** 2 / 6 for t in (f, g) for bit in range(6))
    assert float(balance_loss(f, g)) == pytest.approx(float(uneven), rel=1e-9)
    bits = signs(codes())
    assert float(quantisation_loss(bits, bits)) == 0.0


def test_djsrh_is_that_of_plain_loops():
    a, b, f, g = codes(k=5, seed=2), codes(k=3, seed=3), codes(), codes(seed=1)
    first = [[0.5 * cosine(a[i], a[j]) + 0.5 * cosine(b[i], b[j]) for j in range(4)] for i in range(4)]
    wanted = joint_similarity(a, b)
    expected = 0.0
    for i in range(4):
        for j in range(4):
            second = sum(first[i][k] * first[j][k] for k in range(4)) / 4
            assert float(wanted[i, j]) == pytest.approx(0.6 * first[i][j] + 0.4 * second, rel=1e-6, abs=1e-9)
            aim = min(1.0, 1.5 * float(wanted[i, j]))
            expected += (aim - cosine(f[i], g[j])) ** 2 / 16
            expected += 0.1 * ((aim - cosine(f[i], f[j])) ** 2 + (aim - cosine(g[i], g[j])) ** 2) / 16
    assert float(djsrh_loss(f, g, wanted)) == pytest.approx(expected, rel=1e-9)


def test_the_teachers_loss_is_that_of_plain_loops():
    f, h, scores = codes(), codes(seed=1), codes(k=2, seed=2)
    expected = plain_pairs(f, h)
    for i in range(4):
        for c in range(2):
            p = 1 / (1 + math.exp(-float(scores[i, c])))
            expected -= math.log(p if LABELS[i, c] else 1 - p) / 8
    assert float(teacher_loss(f, h, MATCH, scores, LABELS)) == pytest.approx(expected, rel=1e-9)


def test_gradients():
    f, g, scores = codes().requires_grad_(), codes(seed=1).requires_grad_(), codes(k=2, seed=2).requires_grad_()
    check = torch.autograd.gradcheck
    assert check(lambda a, b: dcmh_loss(a, b, MATCH), (f, g))
    assert check(quantisation_loss, (f, g))
    assert check(balance_loss, (f, g))
    assert check(lambda a, b: djsrh_loss(a, b, joint_similarity(codes(k=5), codes(k=3))), (f, g))
    assert check(lambda a, b, c: teacher_loss(a, b, MATCH, c, LABELS), (f, g, scores))
    batch = Batch(codes(k=5, seed=3), codes(k=3, seed=4), LABELS, LABELS, MATCH)
    teacher = drawn(LabelTeacher(2, 8, 6), torch.Generator().manual_seed(0)).double()
    assert check(lambda a, b: teacher(a, b, batch), (f, g))
    similar = JointSemantics(tuple(Standardised.of(t).double() for t in (batch.images, batch.texts)))
    assert check(lambda a, b: similar(a, b, batch), (f, g))


def test_the_teacher_learns_from_labels_alone():
    """What images and texts get wrong is no reason for it to change its codes."""
    batch = Batch(codes(k=5), codes(k=3), LABELS, LABELS, MATCH)
    teacher = drawn(LabelTeacher(2, 8, 6), torch.Generator().manual_seed(0)).double()
    found = []
    for seed in (0, 1):
        teacher.zero_grad()
        teacher(codes(seed=seed), codes(seed=seed + 5), batch).backward()
        found.append(teacher.encoder[0].weight.grad.clone())
    assert float(found[0].abs().sum()) > 0
    assert torch.equal(*found)


def test_in_use_a_product_is_the_number_of_bits_less_twice_the_hamming_distance(classed):
    scorer = Hash(**{**QUICK, "epochs": 1}).fit(classed.data, "i2t")
    asked, offered = scorer.map_queries(classed.data.image_emb[:9]), scorer.map_candidates(classed.data.text_emb[:8])
    assert set(np.unique(asked)) == set(np.unique(offered)) == {-1.0, 1.0}
    hamming = (asked[:, None] != offered[None]).sum(-1)
    np.testing.assert_array_equal(asked @ offered.T, 32 - 2 * hamming)
    assert signs(torch.tensor([0.0, -0.0, -1e-9, 3.0])).tolist() == [1, 1, -1, 1]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_it_finds_classes_that_cca_does_not_and_comes_back_from_what_is_kept(classed, objective):
    linear = classed.class_map(scorers.get("cca", device="cpu").fit(classed.data, "t2i"), classed.data)
    values, before = {**QUICK, "objective": objective}, torch.get_rng_state()
    one, two = (Hash(**values).fit(classed.data, "t2i", seed=2) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one.state[key], two.state[key]) for key in one.state)
    assert classed.class_map(one, classed.data) > linear + 0.2
    again = Hash(**values).load(one.config, one.state)
    np.testing.assert_array_equal(one.map_queries(classed.data.text_emb), again.map_queries(classed.data.text_emb))


def test_without_classes_the_epoch_is_chosen_by_the_mrr_of_bits(corpus):
    held_out = corpus.held_out(corpus.data, "t2i")
    # The length of 64 bits is 8: equal distances stay equal, and are ties, when vectors are scaled by it.
    scorer = Hash(**{**QUICK, "objective": "contrastive", "epochs": 4, "bits": 64})
    scorer.fit(corpus.data, "t2i", validation=held_out)
    found = [figures["val_MRR"] for figures in scorer.history]
    assert scorer.best_epoch == found.index(max(found))
    scores = score_lists(scorer, held_out.tensors)
    assert float(per_query(scores, held_out.gallery)["MRR"].mean()) == pytest.approx(max(found), abs=1e-6)


def test_by_default_it_learns_from_classes_where_there_are_any_and_else_from_pairs(classed):
    bare, quick = classed.without(classed.data, "labels"), {**QUICK, "epochs": 2}
    for data, expected in ((classed.data, "dcmh"), (bare, "contrastive")):
        states = [Hash(**quick, **more).fit(data, "t2i").state for more in ({}, {"objective": expected})]
        assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_a_projected_candidate_is_a_byte_a_bit_and_scores_the_same(corpus):
    scorer = Hash(**{**QUICK, "epochs": 1}).fit(corpus.data, "t2i")
    batch = corpus.random_batch(dim=24)
    known = scorer.project(batch.candidates.flatten(0, 1))
    assert known.dtype == torch.int8
    again = dataclasses.replace(batch, projected=known.unflatten(0, batch.mask.shape))
    found = scorer.score(again)
    assert found.dtype == torch.float32
    assert torch.equal(found, scorer.score(batch))


def test_bad_input_is_told(classed):
    for bits in (15, 129):
        with pytest.raises(UserError, match=f"bits={bits}: Input should be"):
            Hash(bits=bits)
    bare = classed.without(classed.data, "labels")
    for objective in OBJECTIVES:
        scorer = Hash(**{**QUICK, "objective": objective, "epochs": 1})
        if objective in ("dcmh", "ssah"):
            said = f"objective={objective} learns from classes, and the set has none.* contrastive or djsrh"
            with pytest.raises(UserError, match=said):
                scorer.fit(bare, "t2i")
            with pytest.raises(UserError, match=f"objective={objective} .* has one class only"):
                scorer.fit(classed.scattered(classes=1), "t2i")
        else:
            assert scorer.fit(bare, "t2i").best_epoch == 1
