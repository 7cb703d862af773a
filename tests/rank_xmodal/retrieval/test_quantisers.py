"""Iterative quantisation and random hyperplanes against what their papers promise."""

import numpy as np
import pytest

from rank_xmodal.errors import UserError
from rank_xmodal.retrieval.hamming import pack
from rank_xmodal.retrieval.hamming_retriever import HammingRetriever
from rank_xmodal.retrieval.quantisers import Quantiser, itq, lsh, rotations


def rows_of(seed, n, d):
    """Return rows about some topics, away from 0 and wider in some directions than in others."""
    rng = np.random.default_rng(seed)
    topics = np.random.default_rng(99).normal(size=(12, d))
    rows = topics[rng.integers(0, 12, n)] + rng.normal(size=(n, d)) * np.linspace(1.0, 0.1, d) + 0.5
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def lost(rows, rotation):
    """Return |B - V R|^2, B the nearest of -1 and +1."""
    rotated = rows @ rotation
    return float(sum((np.where(row >= 0, 1, -1) - row) @ (np.where(row >= 0, 1, -1) - row) for row in rotated))


@pytest.mark.parametrize("bits", [1, 7, 16, 24])
def test_rotations_are_orthogonal_and_no_error_rises(bits):
    rows = rows_of(0, 400, bits).astype(np.float64)
    rows -= rows.mean(axis=0)
    last, last_rotation, count = np.inf, None, 0
    for rotation, error in rotations(rows, seed=3):
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(bits), atol=1e-12)
        if last_rotation is not None:  # the signs are those of the rotation before
            signs = np.where(rows @ last_rotation >= 0, 1.0, -1.0)
            assert error == pytest.approx(np.square(signs - rows @ rotation).sum(), rel=1e-9)
            assert error <= lost(rows, last_rotation) * (1 + 1e-12) <= last * (1 + 2e-12)
        assert lost(rows, rotation) <= error * (1 + 1e-12)
        last, last_rotation, count = error, rotation, count + 1
    assert count == 50


def test_a_rotation_is_the_best_of_many_for_its_signs():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(60, 4)) * [3.0, 2.0, 1.0, 0.5]
    steps = rotations(rows, seed=0)
    before, _ = next(steps)
    signs = np.where(rows @ before >= 0, 1.0, -1.0)
    rotation, error = next(steps)
    for _ in range(300):
        other, _ = np.linalg.qr(rotation + 0.3 * rng.normal(size=(4, 4)))
        other *= np.sign(np.diag(other.T @ rotation))
        assert np.square(signs - rows @ other).sum() >= error - 1e-9


def test_itq_is_principal_components_turned():
    rows = rows_of(2, 500, 20)
    quantiser = itq(rows, 8, seed=1)
    exact = rows.astype(np.float64)
    np.testing.assert_allclose(quantiser.mean, exact.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(quantiser.weight.T @ quantiser.weight, np.eye(8), atol=1e-5)
    _, _, right = np.linalg.svd(exact - exact.mean(axis=0), full_matrices=False)
    span = right[:8].T @ right[:8]  # the projection on the first eight components
    np.testing.assert_allclose(quantiser.weight @ quantiser.weight.T, span, atol=1e-5)


def test_itq_maps_as_it_says():
    rows = rows_of(3, 200, 10)
    quantiser = itq(rows, 6)
    mapped = quantiser(rows)
    assert (mapped.shape, mapped.dtype) == ((200, 6), np.float32)
    for row in range(0, 200, 37):
        for bit in range(6):
            expected = sum(
                (float(rows[row, i]) - float(quantiser.mean[i])) * float(quantiser.weight[i, bit]) for i in range(10)
            )
            assert mapped[row, bit] == pytest.approx(expected, abs=1e-5)


def test_itq_finds_more_true_neighbours_than_hyperplanes():
    candidates, queries = rows_of(4, 2_000, 32), rows_of(5, 60, 32)
    # Neighbours in the sense of the paper: by Euclidean distance.
    exact = ((queries[:, None].astype(float) - candidates[None].astype(float)) ** 2).sum(-1)
    true = np.argsort(exact, axis=1)[:, :20]

    def found(quantiser):
        rows, _ = HammingRetriever(quantiser).index(candidates).top(queries, 50)
        return np.mean([len(set(a) & set(b)) / 20 for a, b in zip(true, rows, strict=True)])

    assert found(itq(candidates, 16)) > found(lsh(32, 16)) + 0.1


@pytest.mark.parametrize("make", [lambda seed: itq(rows_of(6, 300, 24), 12, seed), lambda seed: lsh(24, 40, seed)])
def test_the_same_seed_gives_the_same_codes(make):
    rows = rows_of(7, 100, 24)
    codes = pack(make(5)(rows))
    np.testing.assert_array_equal(codes, pack(make(5)(rows)))
    assert (codes != pack(make(6)(rows))).any()


def test_hyperplanes_differ_as_often_as_the_angle_says():
    rng = np.random.default_rng(8)
    a, b = rng.normal(size=(2, 16))
    angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    differ = np.unpackbits(np.bitwise_xor(*pack(lsh(16, 4_096, 1)(np.stack([a, b]))))).sum()
    assert differ / 4_096 == pytest.approx(angle / np.pi, abs=4 * 0.5 / 64)  # four standard deviations


@pytest.mark.parametrize("quantiser", [itq(rows_of(9, 50, 8), 8), lsh(8, 65)])
def test_a_state_is_arrays_and_gives_the_same_map(quantiser, tmp_path):
    np.savez(tmp_path / "state.npz", **quantiser.state)
    again = Quantiser.from_state(dict(np.load(tmp_path / "state.npz")))
    rows = rows_of(10, 30, 8)
    np.testing.assert_array_equal(again(rows), quantiser(rows))
    np.testing.assert_array_equal(again.map_queries(rows), again.map_candidates(rows))


@pytest.mark.parametrize("bits", [0, -1, 4_097])
def test_a_wrong_number_of_bits_is_named(bits):
    for call in (lambda: itq(rows_of(11, 20, 8), bits), lambda: lsh(8, bits)):
        with pytest.raises(UserError, match=rf"^bits={bits}: a code has 1 to 4096 bits"):
            call()


@pytest.mark.parametrize("shape", [(30, 8), (8, 30), (0, 30)])
def test_itq_has_no_more_bits_than_rows_or_columns(shape):
    with pytest.raises(UserError, match=r"^bits=9: .* has at most [08]; ask for fewer, or use lsh"):
        itq(np.ones(shape, np.float32), 9)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_a_row_that_is_not_finite_is_named(value, dtype):
    rows = rows_of(12, 40, 8).astype(dtype)
    rows[31, 2] = value
    with pytest.raises(UserError, match=r"^embeddings holds NaN or infinity in row 31: "):
        itq(rows, 4)


@pytest.mark.parametrize("wrong", [None, [[1.0]], np.ones(5), np.ones((5, 5), int)])
def test_what_is_no_table_of_floats_is_refused(wrong):
    with pytest.raises(ValueError, match=r"^embeddings must be a NumPy array"):
        itq(wrong, 2)


def test_other_widths_are_refused():
    with pytest.raises(UserError, match=r"^dim=0: "):
        lsh(0, 4)
    with pytest.raises(ValueError, match=r"^embeddings \(3, 9\) must be \(n, 8\)"):
        lsh(8, 4)(np.ones((3, 9)))
