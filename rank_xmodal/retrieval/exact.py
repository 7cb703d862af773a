"""Exact top-k by cosine: a fast coarse pass with a proven error bound, then an exact one over what may matter."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
import torch

from rank_xmodal.retrieval.few import MOST, close_to_few

_QUERIES = 8_192  # answered together: what is found for them is kept meanwhile
_CHUNK = 32_768  # candidates rounded at a time
_HEIGHT = 512  # queries and
_TILE = 8_192  # bytes of a row of scores multiplied at a time: their maxima are taken while they are in the cache
_GROUP = 32  # columns whose maximum stands for them
_MERGE = 4  # such groups that make one where only the k-th maximum is asked
_CLOSE = 4  # times k candidates may be too close to call before a query is asked again, more precisely
_EXACT = 2_048  # candidates scored exactly at a time: as doubles they stay in the cache


def top_candidates(
    queries: np.ndarray,
    candidates: np.ndarray,
    k: int,
    *,
    device: torch.device | str = "cpu",
    block_bytes: int = 1 << 26,
) -> tuple[np.ndarray, np.ndarray]:
    """Return every query's k candidates of highest cosine, highest first, ties by ascending row.

    The coarse pass, in bfloat16 where the processor multiplies it and else in float32, keeps all whose score lies
    within its error bound of the k-th; those are scored again in float64, in which a sum of products of fp16 numbers
    of unit vectors is exact. So the result depends neither on the block size nor on device or thread count.

    Parameters
    ----------
    queries : ndarray (n, d), float16 (float32 is taken, but then the last bit may depend on the order of summation)
    candidates : ndarray (m, d), the same; both L2-normalised
    k : int, 1 to m
    device : where the coarse pass multiplies
    block_bytes : int
        About how much memory a block of coarse scores may take.

    Returns
    -------
    ndarray (n, k), int64
        Rows of `candidates`.
    ndarray (n, k), float32
        Cosines, the exact values rounded once.

    Raises
    ------
    ValueError
        If these are no floating point arrays, the widths differ, k is out of range or a row isn't finite.
    """
    _check_arrays(queries, candidates)
    n, m = len(queries), len(candidates)
    if not isinstance(k, (int, np.integer)) or not 1 <= k <= m:
        raise ValueError(f"k={k}: must be between 1 and {m}, the number of candidates.")
    device = torch.device(device)
    rows, cosine = np.empty((n, k), dtype=np.int64), np.empty((n, k), dtype=np.float32)
    ways: list[torch.dtype | None] = [*precisions(device)]
    if n <= MOST and device.type == "cpu" and max(queries.dtype.itemsize, candidates.dtype.itemsize) <= 4:
        ways.insert(0, None)
    for start in range(0, n, _QUERIES):
        part = slice(start, start + _QUERIES)
        try:
            rows[part], cosine[part] = _top(queries[part], candidates, k, ways, device, block_bytes)
        except FloatingPointError:
            raise ValueError(_broken(queries, candidates)) from None
    return rows, cosine


def _check_arrays(queries: np.ndarray, candidates: np.ndarray) -> None:
    for side, rows in (("queries", queries), ("candidates", candidates)):
        if not isinstance(rows, np.ndarray) or rows.dtype.kind != "f":
            found = f"of {rows.dtype}" if isinstance(rows, np.ndarray) else f"a {type(rows).__name__}"
            raise ValueError(f"{side} is {found}: pass a NumPy array of float16, L2-normalised rows.")
    if queries.ndim != 2 or candidates.ndim != 2 or queries.shape[1] != candidates.shape[1]:
        raise ValueError(f"queries {queries.shape} and candidates {candidates.shape} must be (n, d) and (m, d).")


def _broken(queries: np.ndarray, candidates: np.ndarray) -> str:
    """Return the message about the first row whose length is not finite; slow, for when there is one."""
    for side, rows in (("queries", queries), ("candidates", candidates)):
        for start in range(0, len(rows), _CHUNK):
            length = np.linalg.norm(rows[start : start + _CHUNK].astype(np.float32), axis=1)
            if not np.isfinite(length).all():
                return _not_finite(side, start + int(np.flatnonzero(~np.isfinite(length))[0]))
    return "queries or candidates are too long to multiply: L2-normalise the rows."


def _not_finite(side: str, row: int) -> str:
    return f"{side} holds NaN or infinity in row {row}: embed it again, or leave it out."


def precisions(device: torch.device) -> list[torch.dtype]:
    """Return what to multiply in, the fastest first."""
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # old versions cannot tell
    fast = device.type == "cpu" and able.get("avx512_bf16", False)  # what has AMX has it too
    return [torch.bfloat16, torch.float32] if fast else [torch.float32]


def _top(
    queries: np.ndarray,
    candidates: np.ndarray,
    k: int,
    precisions: list[torch.dtype | None],
    device: torch.device,
    block_bytes: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the top k; queries with too many close candidates at one precision are asked again at the next.

    None stands for the way of a few queries.
    """
    if not precisions:
        rows, cosine = zip(*(_slowly(query, candidates, k) for query in queries), strict=True)
        return np.stack(rows), np.stack(cosine)
    if precisions[0] is None:
        query, row, crowded = close_to_few(queries, candidates, k)
    else:
        query, row, crowded = _close(queries, candidates, k, precisions[0], device, block_bytes)
    keys = _keys(_exact(queries, candidates, query, row), row)
    count = np.bincount(query, minlength=len(queries))
    table = np.full((len(queries), max(k, count.max())), np.iinfo(np.int64).max)
    table[query, np.arange(len(query)) - (np.cumsum(count) - count)[query]] = keys
    table.sort(axis=1)
    rows, cosine = _read(table[:, :k])
    if len(crowded):
        rows[crowded], cosine[crowded] = _top(queries[crowded], candidates, k, precisions[1:], device, block_bytes)
    return rows, cosine


def _keys(cosine: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Return integers that ascend as float32 cosines descend and, among equal ones, as rows ascend: fast to sort."""
    bits = (cosine + 0.0).astype(np.float32).view(np.int32)  # + 0.0: one zero, not two
    ascending = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # IEEE 754 has sign and magnitude
    return (~ascending).astype(np.int64) << 32 | row


def _read(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and cosines that `_keys` was given."""
    bits = ~(keys >> 32).astype(np.int32)
    return keys & 0xFFFFFFFF, np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).view(np.float32)


class _Rounded(NamedTuple):
    rows: torch.Tensor  # (n, d), in the type to multiply in
    norm: torch.Tensor  # (n,), lengths before rounding
    lost: torch.Tensor  # (n,), lengths of what rounding took away


def _rounded(rows: np.ndarray, dtype: torch.dtype, device: torch.device, centre: torch.Tensor | float) -> _Rounded:
    """Return rows less the centre, rounded to dtype."""
    norm, lost = torch.empty(2, len(rows), device=device)
    result = _Rounded(torch.empty(rows.shape, dtype=dtype, device=device), norm, lost)
    for start in range(0, len(rows), 1_024):  # stays in the cache
        part = slice(start, start + 1_024)
        exact = torch.from_numpy(np.array(rows[part])).to(device).float()  # a copy: torch takes no read-only memory map
        exact -= centre
        result.rows[part] = exact
        norm[part] = exact.norm(dim=1)
        lost[part] = exact.sub_(result.rows[part]).norm(dim=1)
    return result


def _error(asked: _Rounded, chunk: _Rounded, longest: float) -> torch.Tensor:
    """Return a bound (n,) on the error of the coarse scores, whatever the order of summation, before their rounding.

    With q' = q - e and c' = c - f, qc - q'c' = ec + q'f, so by Cauchy-Schwarz |e||c| + |q'||f| bounds what rounding
    the vectors does. Summing in float32 adds gamma |q'||c'|, gamma = n u / (1 - n u) (Higham 2002, Accuracy and
    Stability of Numerical Algorithms, section 3.1), and what is rounded once, the final cosines among it, some
    2^-24 of |q| `longest`. The factor is for the roundings in this formula itself.
    """
    product = asked.rows.shape[1] * 2.0**-24
    gamma = product / (1 - product)
    norm, lost = chunk.norm.max(), chunk.lost.max()
    return 1.01 * (
        asked.lost * norm + (asked.norm + asked.lost) * (lost + gamma * (norm + lost)) + asked.norm * longest * 2.0**-21
    )


def _floor(kth: torch.Tensor, error: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the least coarse score that a candidate as good as the k-th can have.

    Its own and the k-th's error are at most `error`, and rounding a score s to dtype is at most eps / 2 |s|.
    """
    eps = torch.finfo(dtype).eps
    least = kth - eps / 2 * kth.abs() - 2 * error
    return (least - eps * least.abs()).clamp_(min=torch.finfo(torch.float32).min)  # above the -inf of padding


def _close(
    queries: np.ndarray,
    candidates: np.ndarray,
    k: int,
    dtype: torch.dtype,
    device: torch.device,
    block_bytes: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs that may be in the top k, as queries (P,), ascending, and candidates (P,); and who has too many.

    The k highest maxima of groups of columns belong to k candidates, so the k-th of them bounds the k-th score from
    below. Only groups whose maximum comes close to it are looked into.

    Raises
    ------
    FloatingPointError
        If the length of a row is not finite.
    """
    n, m = len(queries), len(candidates)
    group = max(1, min(_GROUP, m // (8 * k)))
    strands = -(-min(_TILE // dtype.itemsize if device.type == "cpu" else _CHUNK, m) // group)
    tile = group * strands
    tiles = -(-min(_CHUNK, m) // tile)
    height = max(1, min(n, _HEIGHT, block_bytes // (tiles * tile * dtype.itemsize)))
    block = torch.empty((tiles, height, group, strands), dtype=dtype, device=device)
    maxima = torch.empty((height, tiles, strands), dtype=dtype, device=device)
    asked = _rounded(queries, dtype, device, 0.0)
    if not math.isfinite(float(asked.norm.sum())):
        raise FloatingPointError
    # Less any one vector, all scores of a query shift alike; less about the mean, candidates and so errors are smaller.
    centre = torch.from_numpy(candidates[:: 1 + m // 1_024].mean(axis=0, dtype=np.float32)).to(device)
    longest = float(centre.norm())
    best = torch.full((n, k), -torch.inf, device=device)
    error, floor = torch.zeros(n, device=device), torch.zeros(n, device=device)
    crowded = torch.zeros(n, dtype=torch.bool, device=device)
    found = []
    for start in range(0, m, _CHUNK):
        chunk = _rounded(candidates[start : start + _CHUNK], dtype, device, centre)
        reach = longest + float(chunk.norm.max())
        if not math.isfinite(reach):  # NaN and infinity show up in the lengths
            raise FloatingPointError
        error = torch.maximum(error, _error(asked, chunk, reach))
        rights = chunk.rows.split(tile)
        block.view(tiles, height, tile)[len(rights) - 1, :, len(rights[-1]) :] = -torch.inf
        for first in range(0, n, height):
            part = slice(first, min(first + height, n))
            high = part.stop - first
            scores, highest = block[:, :high], maxima[:high, : len(rights)]
            for t, right in enumerate(rights):
                torch.mm(asked.rows[part], right.T, out=scores[t].view(high, tile)[:, : len(right)])
                torch.amax(scores[t], 1, out=highest[:, t])
            highest = highest.flatten(1)
            best[part] = torch.cat([best[part], _merged(highest, k).float()], dim=1).topk(k, dim=1).values
            floor[part] = _floor(best[part, -1], error[part], dtype)
            query, column, score = _above(floor[part], scores, highest, crowded[part], k)
            found.append((query + first, column + start, score))
    query, row, score = (torch.cat(x) for x in zip(*found, strict=True))
    close = score >= floor[query]  # which has risen since
    pairs = torch.stack(_spared(crowded, k, query[close], row[close])).cpu().numpy()
    return *pairs[:, np.argsort(pairs[0], kind="stable")], np.flatnonzero(crowded.cpu().numpy())


def _merged(maxima: torch.Tensor, k: int) -> torch.Tensor:
    """Return maxima of fewer, larger groups: the k-th of them is hardly lower, and found sooner."""
    count = max(1, min(_MERGE, maxima.shape[1] // (4 * k)))
    width = maxima.shape[1] // count
    return maxima[:, : count * width].view(-1, count, width).amax(1)


def _above(
    floor: torch.Tensor, scores: torch.Tensor, highest: torch.Tensor, crowded: torch.Tensor, k: int
) -> tuple[torch.Tensor, ...]:
    """Return the queries, columns and scores (P,) of the scores (tiles, n, group, strands) of at least the floor (n,).

    Column c of a tile is in its group c % strands; `highest` (n, tiles * strands) are the groups' maxima.
    """
    _, _, group, strands = scores.shape
    query, strand = _spared(crowded, k, *(highest >= floor[:, None]).nonzero(as_tuple=True))
    tile, strand = strand // strands, strand % strands
    inside = scores[tile, query, :, strand]
    place, member = (inside >= floor[query, None]).nonzero(as_tuple=True)
    column = (tile[place] * group + member) * strands + strand[place]
    return _spared(crowded, k, query[place], column, inside[place, member])


def _spared(crowded: torch.Tensor, k: int, query: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Mark in `crowded` (n,) who occurs too often in `query` (P,), and leave them out of it and the others (P,).

    So memory stays bounded where many candidates are equal.
    """
    crowded |= torch.bincount(query, minlength=len(crowded)) > _CLOSE * k + 64
    if not crowded.any():
        return query, *others
    kept = ~crowded[query]
    return tuple(x[kept] for x in (query, *others))


def _slowly(query: np.ndarray, candidates: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Score one query against everything, exactly: for more near-ties at the boundary than are kept."""
    cosine = np.concatenate(
        [
            candidates[start : start + _EXACT].astype(np.float64) @ query.astype(np.float64)
            for start in range(0, len(candidates), _EXACT)
        ]
    ).astype(np.float32)
    order = np.argsort(-cosine, kind="stable")[:k]
    return order, cosine[order]


def exact_cosine(
    queries: np.ndarray, candidates: np.ndarray, query_rows: np.ndarray, candidate_rows: np.ndarray
) -> np.ndarray:
    """Return the cosines of given pairs, each the exact value rounded once to float32.

    Parameters
    ----------
    queries : ndarray (n, d), float16, L2-normalised
    candidates : ndarray (m, d), the same
    query_rows : ndarray (Q,), int
    candidate_rows : ndarray (Q, L), int; -1 is padding

    Returns
    -------
    ndarray (Q, L), float32; 0 at padding.

    Raises
    ------
    ValueError
        If a row that is asked for holds NaN or infinity.
    """
    count, length = candidate_rows.shape
    result = np.zeros((count, length), dtype=np.float32)
    height = max(1, min(_QUERIES, (1 << 20) // max(1, length)))  # some million pairs: memory
    for start in range(0, count, height):
        part = slice(start, start + height)
        query, place = np.nonzero(candidate_rows[part] >= 0)
        rows = candidate_rows[part][query, place]
        found = _exact(queries[query_rows[part]], candidates, query, rows)
        if not math.isfinite(found.sum()):
            first = np.flatnonzero(~np.isfinite(found))[0]
            asked = int(query_rows[part][query[first]])
            of_query = not np.isfinite(queries[asked]).all()
            raise ValueError(_not_finite(*(("queries", asked) if of_query else ("candidates", int(rows[first])))))
        result[part][query, place] = found
    return result


def _exact(queries: np.ndarray, candidates: np.ndarray, query: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Return the float64 products (P,) of pairs of a query, ascending, and a candidate."""
    used = np.zeros(len(candidates), dtype=bool)
    used[row] = True
    rows, rank = np.flatnonzero(used), np.cumsum(used) - 1
    batch = (rank // _EXACT).astype(np.uint16)[row]
    order = np.argsort(batch, kind="stable")  # of 16 bits, so a radix sort
    ends = [0, *np.cumsum(np.bincount(batch))]
    query, column = query[order], (rank % _EXACT)[row][order]
    left = torch.from_numpy(np.array(queries)).float().double()  # straight to double is several times slower
    result = np.empty(len(row))
    for i, start in enumerate(range(0, len(rows), _EXACT)):
        part = slice(ends[i], ends[i + 1])
        right = torch.from_numpy(candidates[rows[start : start + _EXACT]]).float().double()
        until = np.concatenate([[0], np.cumsum(np.bincount(query[part], minlength=len(queries)))])
        columns, zeros = torch.from_numpy(column[part]), torch.zeros(part.stop - part.start, dtype=torch.float64)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
            pairs = torch.sparse_csr_tensor(
                torch.from_numpy(until), columns, zeros, (len(left), len(right)), check_invariants=False
            )
        result[order[part]] = torch.sparse.sampled_addmm(pairs, left, right.T, beta=0.0).values().numpy()
    return result
