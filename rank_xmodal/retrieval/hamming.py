"""Exact top-k by Hamming distance over packed codes: bits are counted, or multiplied where queries are many."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import repeat
from typing import Protocol

import numpy as np
import torch

from rank_xmodal.devices import alone
from rank_xmodal.errors import UserError

MOST_BITS = 4_096
_DISTANCE, _QUERY = 40, 53  # a key is query << 53 | distance << 40 | row: one sort orders all three
_KEYS = 1 << 22  # kept before there is a bound
_FEW = 24  # queries up to which counting beats multiplying, as unpacking a code costs as much as counting it so often
_COUNTED = 1 << 17  # pairs counted at a time: their differences stay in the second-level cache
_MULTIPLIED = 1 << 20  # products at a time
_UNPACKED = 1 << 21  # bytes of unpacked codes at a time
_GROUP = 32  # codes whose highest product stands for them
_FIRST = 256  # codes looked at before there is a bound
_SHARD = 16_384  # codes that are worth a thread


def pack(signs: np.ndarray) -> np.ndarray:
    """Return the codes of real vectors: a bit is 1 where the number is at least 0, the first bit of a byte its highest.

    Parameters
    ----------
    signs : ndarray (n, bits), floating point, signed integers or bool (True is 1); 1 to 4,096 bits

    Returns
    -------
    ndarray (n, bits / 8 rounded up), uint8; what is left of the last byte is 0.

    Raises
    ------
    ValueError
        If this is no such array.
    UserError
        If there are no bits or more than 4,096, or a number is NaN.
    """
    if not isinstance(signs, np.ndarray) or signs.dtype.kind not in "fib" or signs.ndim != 2:
        found = f"{signs.dtype} {signs.shape}" if isinstance(signs, np.ndarray) else f"a {type(signs).__name__}"
        raise ValueError(f"signs is {found}: pass a NumPy array (n, bits) of real numbers with a sign, or of bool.")
    if not 1 <= signs.shape[1] <= MOST_BITS:
        raise UserError(f"signs has {signs.shape[1]} columns: a code has 1 to {MOST_BITS} bits.")
    if signs.dtype.kind == "f" and (broken := np.isnan(signs).any(axis=1)).any():
        raise UserError(f"signs holds NaN in row {int(broken.argmax())}: embed it again, or leave it out.")
    return np.packbits(signs if signs.dtype.kind == "b" else signs >= 0, axis=1)


def top_codes(queries: np.ndarray, codes: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return every query's k codes of least Hamming distance, nearest first, ties by ascending row.

    Each of `torch.get_num_threads()` threads looks through codes of its own, with the k-th distance that it has found
    so far as a bound: only what is nearer is kept and sorted.

    Parameters
    ----------
    queries : ndarray (n, width), uint8
    codes : ndarray (m, width), uint8; see `pack`. A memory map will do.
    k : int, 1 to m

    Returns
    -------
    ndarray (n, k), int64
        Rows of `codes`.
    ndarray (n, k), int32
        Distances, in bits.

    Raises
    ------
    ValueError
        If these are no packed codes, the widths differ or k is out of range.
    """
    _check_codes(queries, codes)
    n, m = len(queries), len(codes)
    if not isinstance(k, (int, np.integer)) or not 1 <= k <= m:
        raise ValueError(f"k={k}: must be between 1 and {m}, the number of codes.")
    k = int(k)
    threads = max(1, min(torch.get_num_threads(), m // max(_SHARD, 4 * k)))
    edges = np.linspace(0, m, threads + 1).astype(int).tolist()
    finder = _Products if n > _FEW and _multiplies() else _Counts
    height = max(1, min(finder.height, _KEYS // max(_FIRST, 2 * k)))
    rows, distances = np.empty((n, k), dtype=np.int64), np.empty((n, k), dtype=np.int32)
    with ThreadPoolExecutor(threads, initializer=alone) as pool:
        each = pool.map if threads > 1 else map  # one thread need not be started
        for start in range(0, n, height):
            asked = queries[start : start + height]
            best = _Nearest(len(asked), k, 0)
            finders = [finder(asked) for _ in range(threads)]  # each has memory to work in
            for keys in each(_nearest, finders, repeat(codes), edges[:-1], edges[1:], repeat(k)):
                best.add(keys)
            keys = best.settled().reshape(len(asked), k)
            rows[start : start + height] = keys & ((1 << _DISTANCE) - 1)
            distances[start : start + height] = keys >> _DISTANCE & ((1 << (_QUERY - _DISTANCE)) - 1)
    return rows, distances


def code_distances(codes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the Hamming distances of codes with codes, each with its own.

    Parameters
    ----------
    codes : ndarray (..., width), uint8
    others : ndarray (..., width), uint8
        Of a shape that broadcasts with the first.

    Returns
    -------
    ndarray (...), int32
    """
    differ = np.bitwise_xor(codes, others)
    ones = np.empty(differ.shape, dtype=np.uint8)
    _count(differ, ones)
    return ones.sum(axis=-1, dtype=np.int32)


def _check_codes(queries: np.ndarray, codes: np.ndarray) -> None:
    for side, rows in (("queries", queries), ("codes", codes)):
        if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8:
            found = f"of {rows.dtype}" if isinstance(rows, np.ndarray) else f"a {type(rows).__name__}"
            raise ValueError(f"{side} is {found}: pass a NumPy array of uint8, made by hamming.pack.")
    if queries.ndim != 2 or codes.ndim != 2 or queries.shape[1] != codes.shape[1]:
        raise ValueError(f"queries {queries.shape} and codes {codes.shape} must be (n, width) and (m, width).")
    if not 1 <= codes.shape[1] <= MOST_BITS // 8:
        raise ValueError(f"codes {codes.shape}: a code has 1 to {MOST_BITS // 8} bytes.")


class _Nearest:
    """The k nearest codes found so far for each of some queries, as keys; and how near one must be to be among them."""

    def __init__(self, count: int, k: int, bound: int) -> None:
        self.k = k
        self.bound = np.full(count, bound)  # (count,): only what is nearer matters, as later rows lose ties
        self._kept = np.empty(0, dtype=np.int64)
        self._new: list[np.ndarray] = []
        self.waiting = 0

    def add(self, keys: np.ndarray) -> None:
        """Take the keys (P,) of more codes."""
        self._new.append(keys)
        self.waiting += len(keys)

    def settled(self) -> np.ndarray:
        """Return the keys of the k nearest, ascending, and lower the bounds."""
        keys = np.concatenate([self._kept, *self._new])
        keys.sort()
        query = keys >> _QUERY
        count = np.bincount(query, minlength=len(self.bound))
        self._kept = keys[np.arange(len(keys)) - (np.cumsum(count) - count)[query] < self.k]
        self._new, self.waiting = [], 0
        last = self._kept[(np.cumsum(np.minimum(count, self.k)) - 1)[count >= self.k]]
        self.bound[count >= self.k] = last >> _DISTANCE & ((1 << (_QUERY - _DISTANCE)) - 1)
        return self._kept


class _Finder(Protocol):
    """Finds which codes are near some queries."""

    height: int  # queries at a time, at most: a key has ten bits for them
    queries: np.ndarray  # (n, width), uint8
    width: int  # codes at a time, at most

    def below(self, codes: np.ndarray, bound: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (P,) queries, distances and rows of `codes` (m, width) that are nearer than the bounds (n,)."""
        ...


def _nearest(finder: _Finder, codes: np.ndarray, first: int, last: int, k: int) -> np.ndarray:
    """Return the keys of every query's k nearest among codes first to last, or of all where there are fewer."""
    count, width = finder.queries.shape
    best = _Nearest(count, k, 8 * width + 1)
    start, due = first, max(_FIRST, 2 * k)
    while start < last:
        stop = min(start + finder.width, first + due, last)
        query, distance, row = finder.below(codes[start:stop], best.bound)
        best.add(query << _QUERY | distance << _DISTANCE | row + start)
        # Of as many codes again, about k are nearer than the k-th so far.
        if stop == first + due or best.waiting > 4 * k * count:
            best.settled()
            due = max(due, 2 * (stop - first))
        start = stop
    return best.settled()


class _Counts:
    """Differing bits are counted, word by word."""

    height = 16

    def __init__(self, queries: np.ndarray) -> None:
        self.queries = queries
        self.words = _words(queries)[:, :, None]  # (words, n, 1)
        self.width = max(_FIRST, _COUNTED // len(queries))
        self.kind = np.uint8 if queries.shape[1] < 32 else np.uint16  # of a distance, and a bound beyond all
        cells = self.width * len(queries)
        # Made once: new ones of this size would come from the system, page by page.
        self.buffers = tuple(np.empty(cells, kind) for kind in (self.words.dtype, self.kind, np.uint8, np.bool_))

    def below(self, codes: np.ndarray, bound: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `_Finder`."""
        shape = len(bound), len(codes)
        differ, distance, more, near = (buffer[: shape[0] * shape[1]].reshape(shape) for buffer in self.buffers)
        for i, (asked, word) in enumerate(zip(self.words, _words(codes), strict=True)):
            np.bitwise_xor(word, asked, out=differ)
            if i == 0:
                _count(differ, distance)
            else:
                _count(differ, more)
                distance += more
        found = np.flatnonzero(np.less(distance, bound[:, None].astype(self.kind), out=near))
        query, row = np.divmod(found, len(codes))
        return query, distance.ravel()[found].astype(np.int64), row


def _words(codes: np.ndarray) -> np.ndarray:
    """Return codes (n, width) as (words, n), zeros behind the last byte."""
    width = codes.shape[1]
    size = next((size for size in (1, 2, 4) if width <= size), 8)
    if width % size:
        codes = np.pad(codes, ((0, 0), (0, -width % size)))
    return np.ascontiguousarray(np.ascontiguousarray(codes).view(f"u{size}").T)


def _count(words: np.ndarray, out: np.ndarray) -> None:
    """Write how many bits of each word are 1 to `out`."""
    if hasattr(np, "bitwise_count"):  # NumPy 2
        np.bitwise_count(words, out=out)
    else:
        table = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)
        table[words.view(np.uint8)].reshape(*words.shape, -1).sum(axis=-1, out=out)


class _Products:
    """Codes as 0 and 1 are multiplied by queries as -1 and +1.

    A product is the bits that are 1 on both sides less those that only the code has, so a query's bits that are 1 less
    the product are the distance.
    """

    height = 512

    def __init__(self, queries: np.ndarray) -> None:
        self.queries = queries
        bits = np.unpackbits(queries, axis=1)
        self.signs = torch.from_numpy(2 * bits.view(np.int8) - 1).T.contiguous()  # (bits, n)
        self.ones = bits.sum(axis=1, dtype=np.int32)
        most = min(_MULTIPLIED // len(queries), _UNPACKED // bits.shape[1])
        self.width = max(1, most // _GROUP) * _GROUP
        self.product = torch.empty(self.width, len(queries), dtype=torch.int32)

    def below(self, codes: np.ndarray, bound: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `_Finder`."""
        count, groups = len(codes), -(-len(codes) // _GROUP)
        product = self.product[: groups * _GROUP]
        torch._int_mm(torch.from_numpy(np.unpackbits(codes, axis=1).view(np.int8)), self.signs, out=product[:count])
        product[count:] = -MOST_BITS - 1  # farther than any bound
        grouped = product.view(groups, _GROUP, len(bound))
        floor = self.ones - bound.astype(np.int32)
        above = grouped.amax(1) > torch.from_numpy(floor)
        group, query = np.divmod(np.flatnonzero(above.numpy()), len(bound))
        inside = grouped.numpy()[group, :, query]
        place, member = np.divmod(np.flatnonzero(inside > floor[query, None]), _GROUP)
        query = query[place]
        distance = self.ones[query] - inside[place, member]
        return query, distance.astype(np.int64), group[place] * _GROUP + member


@cache
def _multiplies() -> bool:
    """Return whether the processor multiplies bytes much faster than it counts bits."""
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # old versions cannot tell
    return bool(able.get("avx512_vnni", False)) and hasattr(torch, "_int_mm")
