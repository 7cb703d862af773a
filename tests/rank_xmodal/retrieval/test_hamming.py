"""Search over packed codes against the inner products of -1 and +1, and against plain loops."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rank_xmodal import devices
from rank_xmodal.errors import UserError
from rank_xmodal.retrieval import hamming, hamming_retriever
from rank_xmodal.retrieval.exact import top_candidates
from rank_xmodal.retrieval.hamming import pack, top_codes
from rank_xmodal.retrieval.hamming_retriever import HammingRetriever
from rank_xmodal.retrieval.retriever import Unmapped

FINDERS = ["counts", "products"] if hasattr(torch, "_int_mm") else ["counts"]


@pytest.fixture(params=FINDERS)
def finder(request, monkeypatch):
    """Take one way to find codes whatever the number of queries and the processor."""
    monkeypatch.setattr(hamming, "_multiplies", lambda: request.param == "products")
    monkeypatch.setattr(hamming, "_FEW", 0)
    return request.param


@pytest.fixture
def shards(monkeypatch):
    """Share even a small corpus among three threads."""
    monkeypatch.setattr(hamming, "_SHARD", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def signs_of(rng, n, bits):
    return rng.choice([-1.0, 1.0], size=(n, bits))


def by_products(queries, candidates, k):
    """Return the top k by the inner product of rows of -1 and +1, and their distances."""
    product = (queries @ candidates.T).astype(int)
    order = np.argsort(-product, axis=1, kind="stable")[:, :k]  # stable: ties by ascending row
    return order, (queries.shape[1] - np.take_along_axis(product, order, 1)) // 2


def by_loops(queries, codes, k):
    rows, distances = [], []
    for query in queries:
        all_of_them = []
        for row, code in enumerate(codes):
            differ = sum(bin(int(a) ^ int(b)).count("1") for a, b in zip(query, code, strict=True))
            all_of_them.append((differ, row))
        all_of_them.sort()
        rows.append([row for _, row in all_of_them[:k]])
        distances.append([distance for distance, _ in all_of_them[:k]])
    return np.array(rows), np.array(distances)


def assert_same(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert (found[0].dtype, found[1].dtype) == (np.int64, np.int32)


@pytest.mark.parametrize("bits", [1, 7, 8, 12, 16, 31, 64, 65, 128, 255, 256, 4_096])
@pytest.mark.parametrize(("n", "m", "k"), [(1, 1, 1), (5, 700, 51), (40, 300, 300), (1, 2_000, 7)])
def test_order_is_that_of_the_inner_products(bits, n, m, k, finder, shards):
    rng = np.random.default_rng(bits)
    queries, candidates = signs_of(rng, n, bits), signs_of(rng, m, bits)
    assert_same(top_codes(pack(queries), pack(candidates), k), by_products(queries, candidates, k))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 40),
    m=st.integers(1, 60),
    width=st.integers(1, 20),
    copies=st.integers(1, 4),
)
def test_equals_plain_loops_with_duplicates(seed, n, m, width, copies):
    rng = np.random.default_rng(seed)
    codes = np.tile(rng.integers(0, 256, (m, width), dtype=np.uint8), (copies, 1))
    queries = rng.integers(0, 256, (n, width), dtype=np.uint8)
    k = int(rng.integers(1, len(codes) + 1))
    assert_same(top_codes(queries, codes, k), by_loops(queries, codes, k))


@pytest.mark.parametrize("bits", [16, 64, 128])
@pytest.mark.parametrize(("counted", "multiplied", "unpacked"), [(1, 1, 1), (1 << 11, 1 << 11, 1 << 21)])
def test_blocks_groups_and_threads_change_nothing(bits, counted, multiplied, unpacked, finder, monkeypatch):
    monkeypatch.setattr(hamming, "_COUNTED", counted)
    monkeypatch.setattr(hamming, "_MULTIPLIED", multiplied)
    monkeypatch.setattr(hamming, "_UNPACKED", unpacked)
    monkeypatch.setattr(hamming, "_FIRST", 50)
    monkeypatch.setattr(hamming, "_SHARD", 500)
    monkeypatch.setattr(hamming, "_KEYS", 17 * 51 * 2)  # queries in groups of 17
    rng = np.random.default_rng(1)
    queries, candidates = signs_of(rng, 60, bits), signs_of(rng, 3_001, bits)
    expected = by_products(queries, candidates, 51)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            assert_same(top_codes(pack(queries), pack(candidates), 51), expected)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("order", ["nearest first", "nearest last", "all equal", "opposite"])
def test_codes_in_an_unlucky_order(order, finder, shards):
    rng = np.random.default_rng(2)
    query, candidates = signs_of(rng, 1, 64), signs_of(rng, 5_000, 64)
    if order == "all equal":
        candidates[:] = candidates[0]
    elif order == "opposite":
        candidates[:] = -query
    else:
        near = np.argsort(candidates @ query[0], kind="stable")
        candidates = candidates[near if order == "nearest last" else near[::-1]]
    queries = np.concatenate([query, -query])
    assert_same(top_codes(pack(queries), pack(candidates), 20), by_products(queries, candidates, 20))


@pytest.mark.parametrize("bits", [16, 64])
def test_the_search_over_floats_finds_the_same(bits, finder):
    rng = np.random.default_rng(3)
    queries, candidates = signs_of(rng, 9, bits), signs_of(rng, 4_000, bits)
    scale = bits**-0.5  # a power of two: cosines are exact
    rows, cosine = top_candidates((queries * scale).astype(np.float16), (candidates * scale).astype(np.float16), 30)
    found = top_codes(pack(queries), pack(candidates), 30)
    np.testing.assert_array_equal(found[0], rows)
    np.testing.assert_array_equal(bits - 2 * found[1], bits * cosine)


def test_without_numpys_own_count_of_bits(monkeypatch, shards):
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    monkeypatch.setattr(hamming, "_multiplies", lambda: False)
    rng = np.random.default_rng(4)
    for bits in (7, 12, 30, 65, 300):
        queries, candidates = signs_of(rng, 3, bits), signs_of(rng, 200, bits)
        assert_same(top_codes(pack(queries), pack(candidates), 9), by_products(queries, candidates, 9))


def test_a_memory_map_and_a_slice_are_taken(tmp_path, finder):
    rng = np.random.default_rng(5)
    np.save(tmp_path / "codes.npy", rng.integers(0, 256, (90, 32), dtype=np.uint8))
    mapped = np.load(tmp_path / "codes.npy", mmap_mode="r")
    for codes in (mapped, mapped[::2, 3:19]):
        assert_same(top_codes(codes[:5], codes, 7), by_loops(codes[:5], codes, 7))


def test_no_query_is_no_answer():
    rows, distances = top_codes(np.zeros((0, 8), np.uint8), np.zeros((9, 8), np.uint8), 3)
    assert rows.shape == distances.shape == (0, 3)


def test_a_thread_of_the_search_multiplies_alone(shards):
    with ThreadPoolExecutor(1) as plain, ThreadPoolExecutor(1, initializer=devices.alone) as alone:
        assert [pool.submit(torch.get_num_threads).result() for pool in (plain, alone)] == [3, 1]
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("bits", [1, 7, 8, 12, 65])
@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, bool])
def test_a_bit_is_whether_the_number_is_at_least_0(bits, dtype):
    signs = np.random.default_rng(6).integers(-1, 2, (20, bits)).astype(dtype)
    codes = pack(signs)
    assert (codes.shape, codes.dtype) == ((20, -(-bits // 8)), np.uint8)
    for row in range(20):
        for bit in range(8 * codes.shape[1]):
            expected = bit < bits and (bool(signs[row, bit]) if dtype is bool else signs[row, bit] >= 0)
            assert (codes[row, bit // 8] >> (7 - bit % 8)) & 1 == expected


def test_both_zeros_are_1_and_infinity_has_a_sign():
    assert pack(np.array([[0.0, -0.0, np.inf, -np.inf]])).tolist() == [[0b11100000]]
    assert pack(np.zeros((0, 12))).shape == (0, 2)


def test_nan_and_a_wrong_number_of_bits_are_named():
    signs = np.ones((9, 5), np.float16)
    signs[7, 2] = np.nan
    with pytest.raises(UserError, match=r"^signs holds NaN in row 7: "):
        pack(signs)
    for bits in (0, 4_097):
        with pytest.raises(UserError, match=rf"^signs has {bits} columns: a code has 1 to 4096 bits"):
            pack(np.ones((2, bits)))


@pytest.mark.parametrize("wrong", [None, [[1.0]], np.ones(3), np.ones((2, 2), np.uint8), np.ones((2, 2), complex)])
def test_what_has_no_signs_is_refused(wrong):
    with pytest.raises(ValueError, match=r"^signs is .*: pass a NumPy array"):
        pack(wrong)


@pytest.mark.parametrize("k", [0, 6, -1, 1.0, None])
def test_k_out_of_range_is_named(k):
    with pytest.raises(ValueError, match=rf"^k={k}: must be between 1 and 5"):
        top_codes(np.ones((1, 2), np.uint8), np.ones((5, 2), np.uint8), k)


def test_no_codes_hold_no_k():
    with pytest.raises(ValueError, match=r"^k=1: must be between 1 and 0"):
        top_codes(np.ones((1, 2), np.uint8), np.ones((0, 2), np.uint8), 1)


@pytest.mark.parametrize("shape", [(1, 3), (2,), (1, 2, 1)])
def test_other_widths_are_refused(shape):
    with pytest.raises(ValueError, match="must be"):
        top_codes(np.ones(shape, np.uint8), np.ones((5, 2), np.uint8), 1)


@pytest.mark.parametrize("width", [0, 513])
def test_codes_of_no_or_too_many_bytes_are_refused(width):
    with pytest.raises(ValueError, match="1 to 512 bytes"):
        top_codes(np.ones((1, width), np.uint8), np.ones((5, width), np.uint8), 1)


@pytest.mark.parametrize("wrong", [None, [[1]], np.ones((1, 2)), np.ones((1, 2), bool)])
def test_what_is_not_packed_is_refused(wrong):
    good = np.ones((1, 2), np.uint8)
    for side, arguments in (("queries", (wrong, good)), ("codes", (good, wrong))):
        with pytest.raises(ValueError, match=f"^{side} is .*: pass a NumPy array of uint8"):
            top_codes(*arguments, 1)


class Signed(Unmapped):
    """Maps each side in its own way, and counts the rows that it is given at once."""

    most = 0

    def map_candidates(self, embeddings):
        self.most = max(self.most, len(embeddings))
        return embeddings[:, ::-1] - 0.1


@pytest.mark.parametrize("bits", [7, 64])
def test_a_retriever_scores_with_the_inner_product(bits, monkeypatch):
    monkeypatch.setattr(hamming_retriever, "_ROWS", 100)
    rng = np.random.default_rng(7)
    queries, candidates = rng.normal(size=(4, bits)), rng.normal(size=(350, bits))
    space = Signed()
    retriever = HammingRetriever(space)
    assert retriever.index(candidates) is retriever
    assert space.most == 100
    assert (retriever.codes.shape, retriever.codes.dtype) == ((350, -(-bits // 8)), np.uint8)
    rows, scores = retriever.top(queries, 30)
    product = np.where(queries >= 0, 1, -1) @ np.where(candidates[:, ::-1] >= 0.1, 1, -1).T
    order = np.argsort(-product, axis=1, kind="stable")[:, :30]
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_array_equal(scores, np.take_along_axis(product, order, 1))
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)


def test_a_retriever_says_what_is_wrong():
    retriever = HammingRetriever(Unmapped())
    with pytest.raises(RuntimeError, match="index comes before top"):
        retriever.top(np.ones((1, 7)), 1)
    retriever.index(np.ones((3, 7)))
    with pytest.raises(ValueError, match="queries have 8 bits, candidates 7"):
        retriever.top(np.ones((1, 8)), 1)
    with pytest.raises(ValueError, match="k=4: must be between 1 and 3"):
        retriever.top(np.ones((1, 7)), 4)
    with pytest.raises(UserError, match="NaN in row 1"):
        retriever.top(np.array([[1.0] * 7, [np.nan] * 7]), 1)
    with pytest.raises(ValueError, match="k=1: must be between 1 and 0"):
        retriever.index(np.ones((0, 7))).top(np.ones((1, 7)), 1)
