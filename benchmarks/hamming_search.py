"""Exact top-51 by Hamming distance among a million packed codes, beside faiss and beside our own search over floats.

All find the same distances (checked). The codes are random: real ones have nearer neighbours, and so lower bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch

from benchmarks.measure import Row, alternate_apart, row
from rank_xmodal.errors import UserError
from rank_xmodal.retrieval.exact import top_candidates
from rank_xmodal.retrieval.hamming import top_codes

CODES, QUERIES, K = 1_000_000, 100, 51
_COMPARED = 10  # queries of the search over floats, whose work grows with them; ours has as many then
Side = Literal["ours", "faiss", "floats"]


def codes_of(bits: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Return packed queries and codes, the same each time."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (CODES, bits // 8), dtype=np.uint8)
    return rng.integers(0, 256, (queries, bits // 8), dtype=np.uint8), codes


def searching(side: Side, bits: int, queries: int) -> Callable[[], np.ndarray]:
    """Return a function that searches and returns the distances (queries, K)."""
    asked, codes = codes_of(bits, queries)
    if side == "ours":
        return lambda: top_codes(asked, codes, K)[1]
    if side == "floats":
        # Of length 1, as the search expects, or nearly: the root of 128 bits is rounded.
        q, c = ((2 * np.unpackbits(x, axis=1).astype(np.float16) - 1) / np.float16(bits**0.5) for x in (asked, codes))
        length = float(q[0] @ q[0].astype(np.float64))

        def search() -> np.ndarray:
            cosine = top_candidates(q, c, K)[1]
            return np.rint(bits * (1 - cosine / length) / 2).astype(np.int32)

        return search
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexBinaryFlat(bits)
    index.add(codes)
    return lambda: index.search(asked, K)[0]


def rows() -> Iterator[Row]:
    """Compare with faiss for many queries and for one, and with our search over floats."""
    try:
        import faiss  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is missing: run `make bench`, or pip install '.[bench]'.") from error
    compared: tuple[tuple[Side, int, int, float | None], ...] = (
        ("faiss", 64, QUERIES, 1.0), ("faiss", 128, QUERIES, 1.0), ("faiss", 64, 1, None), ("faiss", 128, 1, None),
        ("floats", 64, _COMPARED, 10.0), ("floats", 128, _COMPARED, None),
    )  # fmt: skip
    for side, bits, queries, target in compared:
        found, expected = (searching(who, bits, queries)() for who in ("ours", side))
        if not np.array_equal(found, expected):
            raise UserError(f"hamming: the distances are not those of {side}: this would compare nothing.")
        times = 1 if side == "floats" else 5
        pairs = alternate_apart((searching, ("ours", bits, queries)), (searching, (side, bits, queries)), times=times)
        work = f"top {K} of {CODES:,} codes of {bits} bits, {queries} {'query' if queries == 1 else 'queries'}"
        yield row(work, "faiss IndexBinaryFlat" if side == "faiss" else "our search over floats", pairs, target)
