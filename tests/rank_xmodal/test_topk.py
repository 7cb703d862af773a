import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rank_xmodal import topk
from rank_xmodal.topk import exact_cosine, top_candidates


def unit(rng, n, d):
    rows = rng.normal(size=(n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def brute_force(queries, candidates, k):
    cosine = (queries.astype(np.float64) @ candidates.astype(np.float64).T).astype(np.float32)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :k]  # stable: ties by ascending row
    return order, np.take_along_axis(cosine, order, 1)


def assert_same(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert found[1].dtype == np.float32


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 9),
    m=st.integers(1, 90),
    d=st.integers(1, 24),
    copies=st.integers(1, 4),
)
def test_equals_brute_force_with_duplicates(seed, n, m, d, copies):
    rng = np.random.default_rng(seed)
    candidates = np.tile(unit(rng, m, d), (copies, 1))
    queries = unit(rng, n, d)
    k = int(rng.integers(1, len(candidates) + 1))
    assert_same(top_candidates(queries, candidates, k), brute_force(queries, candidates, k))


@pytest.mark.parametrize("block_bytes", [1, 5_000, 1 << 26])
@pytest.mark.parametrize("chunk", [700, 32_768])
def test_block_chunk_and_threads_change_nothing(block_bytes, chunk, monkeypatch):
    rng = np.random.default_rng(1)
    queries, candidates = unit(rng, 30, 48), unit(rng, 5_000, 48)
    candidates[2_500:] = candidates[:2_500]
    monkeypatch.setattr(topk, "_CHUNK", chunk)
    expected = brute_force(queries, candidates, 51)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert_same(top_candidates(queries, candidates, 51, block_bytes=block_bytes), expected)
    finally:
        torch.set_num_threads(before)


def test_more_near_ties_than_the_slack_take_the_slow_way(monkeypatch):
    rng = np.random.default_rng(2)
    candidates = np.repeat(unit(rng, 2, 16), 100, axis=0)
    queries = unit(rng, 3, 16)
    taken = []
    slowly = topk._slowly
    monkeypatch.setattr(topk, "_slowly", lambda *a: taken.append(1) or slowly(*a))
    assert_same(top_candidates(queries, candidates, 10), brute_force(queries, candidates, 10))
    assert len(taken) == 3


def test_distinct_candidates_do_not_need_the_slow_way(monkeypatch):
    rng = np.random.default_rng(3)
    monkeypatch.setattr(topk, "_slowly", lambda *a: pytest.fail("slow"))
    top_candidates(unit(rng, 20, 64), unit(rng, 4_000, 64), 51)


def test_a_memory_map_is_taken(tmp_path):
    rng = np.random.default_rng(4)
    np.save(tmp_path / "a.npy", unit(rng, 60, 8))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert_same(top_candidates(mapped[:5], mapped, 7), brute_force(mapped[:5], mapped, 7))


def test_exact_cosine_gives_0_at_padding():
    rng = np.random.default_rng(5)
    queries, candidates = unit(rng, 4, 8), unit(rng, 9, 8)
    rows = np.array([[3, -1, 8], [0, 0, -1]])
    found = exact_cosine(queries, candidates, np.array([2, 1]), rows)
    for i, query in enumerate((2, 1)):
        for j, row in enumerate(rows[i]):
            exact = 0.0 if row < 0 else float(queries[query].astype(np.float64) @ candidates[row].astype(np.float64))
            assert found[i, j] == np.float32(exact)


@pytest.mark.parametrize("k", [0, 6])
def test_k_out_of_range_is_named(k):
    with pytest.raises(ValueError, match=rf"k={k}: must be between 1 and 5"):
        top_candidates(np.ones((1, 2), np.float16), np.ones((5, 2), np.float16), k)


def test_other_widths_are_refused():
    with pytest.raises(ValueError, match="must be"):
        top_candidates(np.ones((1, 2), np.float16), np.ones((5, 3), np.float16), 1)
