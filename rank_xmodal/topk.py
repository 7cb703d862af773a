"""Exact top-k by cosine: a fast coarse pass in float32, then an exact one over what may matter."""

from __future__ import annotations

import numpy as np
import torch

_SLACK = 16  # candidates kept beside the k, so that rounding at the boundary seldom needs the slow way
_GROUP = 32  # columns whose maximum stands for them
_CHUNK = 32_768  # candidates multiplied at a time
_NORM = 1.005  # fp16 rows of unit vectors are at most this long, squared


def _rounding(dim: int) -> float:
    """Return a bound on the error of a float32 inner product of two unit vectors, in whatever order it is summed.

    gamma_n = n u / (1 - n u) (Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1).
    """
    product = dim * 2.0**-24
    return _NORM * product / (1 - product)


def top_candidates(
    queries: np.ndarray,
    candidates: np.ndarray,
    k: int,
    *,
    device: torch.device | str = "cpu",
    block_bytes: int = 1 << 26,
) -> tuple[np.ndarray, np.ndarray]:
    """Return every query's k candidates of highest cosine, highest first, ties by ascending row.

    The coarse pass keeps all whose float32 score lies within the rounding error of the k-th; those are scored again in
    float64, in which a sum of products of fp16 numbers of unit vectors is exact. So the result depends neither on the
    block size nor on device or thread count.

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
        If the widths differ or k is out of range.
    """
    n, m = len(queries), len(candidates)
    if queries.ndim != 2 or candidates.ndim != 2 or queries.shape[1] != candidates.shape[1]:
        raise ValueError(f"queries {queries.shape} and candidates {candidates.shape} must be (n, d) and (m, d).")
    if not 1 <= k <= m:
        raise ValueError(f"k={k}: must be between 1 and {m}, the number of candidates.")
    keep = min(k + _SLACK, m)
    values, rows, bound = _coarse(queries, candidates, keep, torch.device(device), block_bytes)
    cosine = exact_cosine(queries, candidates, np.arange(n), rows)
    order = np.lexsort((rows, -cosine), axis=1)[:, :k]
    rows, cosine = np.take_along_axis(rows, order, 1), np.take_along_axis(cosine, order, 1)
    # Whoever was left out has a coarse score of at most `bound`; it may belong to the top k where that is this close.
    unsure = np.flatnonzero(bound >= values[:, k - 1] - 2 * _rounding(queries.shape[1]))
    for place in unsure:
        rows[place], cosine[place] = _slowly(queries[place], candidates, k)
    return rows, cosine


def _coarse(
    queries: np.ndarray, candidates: np.ndarray, keep: int, device: torch.device, block_bytes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the `keep` highest float32 scores (descending), their rows, and a bound on all others."""
    n, m = len(queries), len(candidates)
    values = torch.full((n, keep), -torch.inf)
    rows = torch.zeros((n, keep), dtype=torch.int64)
    bound = torch.full((n,), -torch.inf)
    for start in range(0, m, _CHUNK):
        chunk = _on(device, candidates[start : start + _CHUNK]).T
        height = max(1, block_bytes // (4 * chunk.shape[1]))
        for first in range(0, n, height):
            part = slice(first, first + height)
            block = _on(device, queries[part]) @ chunk
            found, columns, left = (x.cpu() for x in _top_of_block(block, min(keep, block.shape[1])))
            both = torch.cat([values[part], found], dim=1)
            merged = both.topk(min(keep + 1, both.shape[1]), dim=1)
            dropped = merged.values[:, keep] if merged.values.shape[1] > keep else left
            bound[part] = torch.maximum(bound[part], torch.maximum(left, dropped))
            source = torch.cat([rows[part], columns + start], dim=1)
            values[part] = merged.values[:, :keep]
            rows[part] = source.gather(1, merged.indices[:, :keep])
    return values.numpy(), rows.numpy(), bound.numpy()


def _on(device: torch.device, rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(rows)).to(device).float()  # a copy: torch takes no read-only memory map


def _top_of_block(block: torch.Tensor, keep: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the `keep` highest entries of each row, their columns, and the highest entry left out.

    The `keep` highest entries lie in the `keep` groups of columns with the highest maxima: only those are sorted.
    """
    height, width = block.shape
    groups = width // _GROUP
    if groups <= 2 * keep:
        top = block.topk(min(keep + 1, width), dim=1)
        left = top.values[:, keep] if width > keep else torch.full((height,), -torch.inf, device=block.device)
        return top.values[:, :keep], top.indices[:, :keep], left
    body = block[:, : groups * _GROUP].view(height, _GROUP, groups)  # column c is in group c % groups
    best = body.amax(1).topk(keep + 1, dim=1)
    columns = (best.indices[:, :keep, None] + groups * torch.arange(_GROUP, device=block.device)).flatten(1)
    rest = torch.arange(groups * _GROUP, width, device=block.device).expand(height, -1)
    columns = torch.cat([columns, rest], dim=1)
    top = block.gather(1, columns).topk(keep + 1, dim=1)
    left = torch.maximum(best.values[:, keep], top.values[:, keep])
    return top.values[:, :keep], columns.gather(1, top.indices[:, :keep]), left


def _slowly(query: np.ndarray, candidates: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Score one query against everything, exactly: for more near-ties at the boundary than the slack holds."""
    cosine = np.concatenate(
        [
            candidates[start : start + _CHUNK].astype(np.float64) @ query.astype(np.float64)
            for start in range(0, len(candidates), _CHUNK)
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
    """
    count, length = candidate_rows.shape
    result = np.zeros((count, length), dtype=np.float32)
    height = max(1, (1 << 19) // max(1, length * queries.shape[1]))  # a block of doubles that stays in the cache
    for start in range(0, count, height):
        part = slice(start, start + height)
        rows = candidate_rows[part]
        left = torch.from_numpy(queries[query_rows[part]]).double()
        right = torch.from_numpy(candidates[np.maximum(rows, 0).reshape(-1)]).double()
        right = right.view(len(rows), length, -1)
        result[part] = np.where(rows < 0, 0.0, torch.bmm(right, left[:, :, None])[:, :, 0].numpy())
    return result
