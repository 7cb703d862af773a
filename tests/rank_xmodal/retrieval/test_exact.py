import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rank_xmodal.retrieval import exact as topk
from rank_xmodal.retrieval import few
from rank_xmodal.retrieval.exact import exact_cosine, top_candidates

PRECISIONS = topk.precisions(torch.device("cpu"))


@pytest.fixture(
    params=[[None, *PRECISIONS], *(PRECISIONS[i:] for i in range(len(PRECISIONS)))],
    ids=lambda p: str(p[0]).removeprefix("torch."),
)
def precisions(request, monkeypatch):
    """Let all queries take the same way, beginning with that of a few (None) or with a precision; return the latter."""
    known = [precision for precision in request.param if precision is not None]
    monkeypatch.setattr(topk, "MOST", 10_000 if known != request.param else 0)
    monkeypatch.setattr(topk, "precisions", lambda device: known)
    return request.param


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


def clustered(rng, n, d, spread=0.8):
    topics = np.random.default_rng(7).normal(size=(5, d))  # the same for queries and candidates
    rows = 0.7 + topics[rng.integers(0, 5, n)] + spread * rng.normal(size=(n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


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


@pytest.mark.parametrize(
    ("n", "m", "d", "k"), [(77, 5_003, 40, 51), (3, 4_097, 512, 51), (40, 60, 8, 60), (1, 1, 3, 1)]
)
@pytest.mark.parametrize("make", [unit, clustered])
def test_equals_brute_force_at_both_precisions(make, n, m, d, k, precisions):
    rng = np.random.default_rng(1)
    queries, candidates = make(rng, n, d), make(rng, m, d)
    assert_same(top_candidates(queries, candidates, k), brute_force(queries, candidates, k))


@pytest.mark.parametrize("block_bytes", [1, 50_000, 1 << 26])
@pytest.mark.parametrize(("chunk", "tile"), [(700, 256), (700, 8_192), (32_768, 2_048)])
def test_block_chunk_tile_and_threads_change_nothing(block_bytes, chunk, tile, precisions, monkeypatch):
    rng = np.random.default_rng(1)
    queries, candidates = unit(rng, 30, 48), unit(rng, 5_000, 48)
    candidates[2_500:] = candidates[:2_500]
    monkeypatch.setattr(topk, "_CHUNK", chunk)
    monkeypatch.setattr(topk, "_TILE", tile)
    monkeypatch.setattr(topk, "_QUERIES", 17)
    monkeypatch.setattr(topk, "_EXACT", 900)
    for name, value in (("_CHUNK", 2 * chunk), ("_BLOCK", chunk // 3), ("_SHARD", 500)):
        monkeypatch.setattr(few, name, value)
    expected = brute_force(queries, candidates, 51)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert_same(top_candidates(queries, candidates, 51, block_bytes=block_bytes), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_a_few_queries_are_searched_by_threads_in_any_mode(mode, monkeypatch):
    monkeypatch.setattr(few, "_SHARD", 100)
    rng = np.random.default_rng(1)
    queries, candidates = unit(rng, 3, 24), unit(rng, 900, 24)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with mode():
            assert_same(top_candidates(queries, candidates, 11), brute_force(queries, candidates, 11))
    finally:
        torch.set_num_threads(before)


def test_candidates_that_differ_by_less_than_the_rounding(precisions):
    rng = np.random.default_rng(2)
    candidates = np.tile(clustered(rng, 20, 64), (60, 1))
    candidates[np.arange(1_200), rng.integers(0, 64, 1_200)] *= np.float16(1 + 2**-10)  # one unit in the last place
    queries = clustered(rng, 25, 64)
    assert_same(top_candidates(queries, candidates, 30), brute_force(queries, candidates, 30))


def test_cosines_equal_only_in_float32_are_ties(precisions):
    candidates = np.ones((900, 2), dtype=np.float16)
    candidates[:, 1] = np.arange(900) * 2.0**-18
    queries = np.array([[1, 2**-16]], dtype=np.float16)  # the exact cosines rise from 1 to less than 1 + 2^-24
    rows, cosine = top_candidates(queries, candidates, 20)
    assert rows.tolist() == [list(range(20))]
    assert cosine.tolist() == [[1.0] * 20]


@pytest.mark.parametrize(("copies", "slow"), [(100, 0), (900, 3)])
def test_too_many_near_ties_are_asked_again_and_at_last_the_slow_way(copies, slow, precisions, monkeypatch):
    rng = np.random.default_rng(2)
    candidates = np.repeat(unit(rng, 2, 16), copies, axis=0)
    queries = unit(rng, 3, 16)
    taken, asked = [], []
    slowly, close = topk._slowly, topk._close
    monkeypatch.setattr(topk, "_slowly", lambda *a: taken.append(1) or slowly(*a))
    monkeypatch.setattr(topk, "_close", lambda *a: asked.append(a[3]) or close(*a))
    assert_same(top_candidates(queries, candidates, 10), brute_force(queries, candidates, 10))
    assert len(taken) == slow
    assert asked == [way for way in (precisions if slow else precisions[:1]) if way is not None]


@pytest.mark.parametrize("chunk", [640, 32_768])
def test_equal_candidates_and_zeros(chunk, precisions, monkeypatch):
    monkeypatch.setattr(topk, "_CHUNK", chunk)
    candidates = np.tile(unit(np.random.default_rng(3), 1, 8), (2_000, 1))
    queries = np.concatenate([candidates[:2], -candidates[:1], np.zeros((1, 8), np.float16)])
    assert_same(top_candidates(queries, candidates, 9), brute_force(queries, candidates, 9))


def test_distinct_candidates_do_not_need_the_slow_way(monkeypatch):
    rng = np.random.default_rng(3)
    monkeypatch.setattr(topk, "_slowly", lambda *a: pytest.fail("slow"))
    top_candidates(unit(rng, 20, 64), unit(rng, 4_000, 64), 51)


def nasty(rng, n, d):
    rows = rng.normal(size=(n, d)) * 10.0 ** rng.uniform(-8, 0, size=(n, d))  # subnormal in fp16 beside large
    rows[::5] = np.eye(d)[rng.integers(0, d, len(rows[::5]))]
    rows[1::5] = 1 + 2**-9  # halfway between two bfloat16 numbers
    rows[2::5, 1:] = 2.0**-24
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / norm).astype(np.float16)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("make", [nasty, unit, clustered])
@pytest.mark.parametrize("d", [3, 512, 1_000])
def test_no_coarse_score_is_further_off_than_the_bound(d, make, dtype):
    rng = np.random.default_rng(4)
    cpu = torch.device("cpu")
    queries, candidates = make(rng, 200, d), make(rng, 300, d)
    centre = torch.from_numpy(candidates.mean(axis=0, dtype=np.float32))
    asked, chunk = topk._rounded(queries, dtype, cpu, 0.0), topk._rounded(candidates, dtype, cpu, centre)
    coarse = (asked.rows @ chunk.rows.T).double().numpy()
    exact = queries.astype(np.float64) @ (candidates.astype(np.float64) - centre.double().numpy()).T
    bound = topk._error(asked, chunk, float(centre.norm() + chunk.norm.max())).double().numpy()[:, None]
    rounding = torch.finfo(dtype).eps / 2 * np.abs(coarse)
    assert (np.abs(coarse - exact) <= bound + rounding).all()
    assert (bound < 0.02).all()  # and is of use


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("error", [0.0, 1e-6, 0.004])
def test_whoever_is_as_good_as_the_kth_is_above_the_floor(error, dtype):
    exact = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    kth, other = (exact + error).to(dtype), (exact - error).to(dtype)  # the worst that can happen to equals
    floor = topk._floor(kth.float(), torch.full((20_001,), error + 2**-22), dtype)
    assert (other >= floor).all()
    assert (floor.double() > kth.double() - 2.1 * error - 7 * torch.finfo(dtype).eps).all()


def test_keys_sort_by_descending_cosine_and_then_row():
    cosine = np.array([0.5, -0.0, 1e-40, 0.0, -1e-40, -0.5, 1.0009765625, 0.5], dtype=np.float32)
    row = np.array([7, 1, 3, 0, 5, 2, 1 << 31, 6])
    keys = topk._keys(cosine, row)
    rows, read = topk._read(keys)
    np.testing.assert_array_equal(rows, row)
    np.testing.assert_array_equal(read, cosine)
    np.testing.assert_array_equal(np.argsort(keys), np.lexsort((row, -cosine)))


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


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("side", "row"), [("queries", 0), ("queries", 23), ("candidates", 0), ("candidates", 777)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_row_that_is_not_finite_is_named(side, row, value, dtype, precisions, monkeypatch):
    """One NaN ended in an IndexError about row 4294967295."""
    monkeypatch.setattr(topk, "_QUERIES", 17)
    monkeypatch.setattr(topk, "_CHUNK", 300)
    rng = np.random.default_rng(6)
    rows = {"queries": unit(rng, 30, 8).astype(dtype), "candidates": unit(rng, 900, 8).astype(dtype)}
    rows[side][row, 3] = value
    with pytest.raises(ValueError, match=rf"^{side} holds NaN or infinity in row {row}: "):
        top_candidates(rows["queries"], rows["candidates"], 5)
    pairs = np.array([23, 0]), np.array([[777, -1], [0, 777]])
    with pytest.raises(ValueError, match=rf"^{side} holds NaN or infinity in row {row}: "):
        exact_cosine(rows["queries"], rows["candidates"], *pairs)


def test_a_broken_row_that_no_pair_asks_for_does_not_matter():
    candidates = unit(np.random.default_rng(6), 3, 8)
    candidates[1] = np.nan
    assert exact_cosine(candidates, candidates, np.array([0]), np.array([[2, 0]])).shape == (1, 2)


@pytest.mark.parametrize("wrong", [None, [[1.0, 2.0]], torch.ones(1, 2), np.ones((1, 2), int), np.ones((1, 2), bool)])
def test_what_is_no_array_of_floats_is_refused(wrong):
    good = np.ones((1, 2), np.float16)
    for side, arguments in (("queries", (wrong, good)), ("candidates", (good, wrong))):
        with pytest.raises(ValueError, match=f"^{side} is .*: pass a NumPy array"):
            top_candidates(*arguments, 1)


@pytest.mark.parametrize("k", [1.0, None, 10**30])
def test_k_that_is_no_count_of_candidates_is_refused(k):
    with pytest.raises(ValueError, match=r"^k=.*must be between 1 and 5"):
        top_candidates(np.ones((1, 2), np.float16), np.ones((5, 2), np.float16), k)
