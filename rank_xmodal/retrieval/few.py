"""The coarse pass of an exact search for a few queries: candidates are converted in the cache, and kept nowhere."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from rank_xmodal.devices import alone

MOST = 16  # queries; for more, rounding the candidates once is soon worth it
_BLOCK = 2_048  # candidates converted at a time: with 512 numbers each they stay in the cache
_GROUP = 32  # candidates whose highest score stands for them
_CHUNK = 1 << 20  # candidates whose scores are kept at a time
_SHARD = 16_384  # candidates that are worth a thread
_CLOSE = 4  # times k as many may lie close to the k-th; `exact` has a way for more


def close_to_few(queries: np.ndarray, candidates: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs that may be in the top k, as queries (P,), ascending, and candidates (P,); and who has too many.

    Scores are taken in float32, in which embeddings of half precision are exact; what summing loses is bounded as in
    `exact`, by gamma |q| |c|. Each of `torch.get_num_threads()` threads has candidates of its own.

    Parameters
    ----------
    queries : ndarray (n, d), float16 or float32, at most `MOST`
    candidates : ndarray (m, d), the same; a memory map will do
    k : int, 1 to m

    Raises
    ------
    FloatingPointError
        If the length of a row is not finite.
    """
    asked = torch.from_numpy(np.array(queries, dtype=np.float32))
    lengths = asked.norm(dim=1)
    product = asked.shape[1] * 2.0**-24
    best, longest = torch.full((len(asked), k), -torch.inf), 0.0
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    floor = torch.empty(0)
    for start in range(0, len(candidates), _CHUNK):
        scores, highest, reach = _scores(asked, candidates[start : start + _CHUNK])
        if not (np.isfinite(reach) and bool(lengths.isfinite().all())):  # NaN shows up in the lengths
            raise FloatingPointError
        longest = max(longest, reach)
        # The highest of k groups belong to k candidates: the k-th of them bounds the k-th score from below.
        top = scores[:, : min(scores.shape[1], len(candidates))] if highest.shape[1] < 2 * k else highest
        best = torch.cat([best, top.topk(min(k, top.shape[1]), dim=1).values], 1).topk(k, dim=1).values
        error = 1.01 * lengths * longest * (product / (1 - product) + 2.0**-21)
        floor = (best[:, -1] - 2 * error).clamp(min=torch.finfo(torch.float32).min)
        query, group = (highest >= floor[:, None]).numpy().nonzero()
        inside = scores.view(len(asked), -1, _GROUP)[query, group].numpy()
        place, member = (inside >= floor.numpy()[query, None]).nonzero()
        found.append((query[place], group[place] * _GROUP + member + start, inside[place, member]))
    query, row, score = (np.concatenate(part) for part in zip(*found, strict=True))
    close = score >= floor.numpy()[query]  # which has risen since
    query, row = query[close], row[close]
    crowded = np.bincount(query, minlength=len(asked)) > _CLOSE * k + 64
    kept = ~crowded[query]
    query, row = query[kept], row[kept]
    order = np.argsort(query, kind="stable")
    return query[order], row[order], np.flatnonzero(crowded)


def _scores(asked: torch.Tensor, candidates: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return scores (n, m rounded up to groups), their groups' maxima, and the greatest length of a candidate."""
    count = len(candidates)
    # NumPy's, as a tensor that was made in inference mode could not be written to by other threads.
    scores = np.full((len(asked), -(-count // _GROUP) * _GROUP), -np.inf, dtype=np.float32)
    threads = max(1, min(torch.get_num_threads(), count // _SHARD))
    edges = [count * part // threads // _GROUP * _GROUP for part in range(threads)] + [count]

    def shard(part: int) -> float:
        # Copied first, as torch takes no read-only memory map, and converts halves ten times as fast as NumPy does.
        staged, longest = np.empty((_BLOCK, asked.shape[1]), dtype=candidates.dtype), 0.0
        buffer = torch.empty(staged.shape)
        for start in range(edges[part], edges[part + 1], _BLOCK):
            some = candidates[start : min(start + _BLOCK, edges[part + 1])]
            staged[: len(some)] = some
            block = buffer[: len(some)].copy_(torch.from_numpy(staged[: len(some)]))
            scores[:, start : start + len(some)] = torch.mm(asked, block.T).numpy()
            reach = float(torch.linalg.vector_norm(block, dim=1).max())
            if not np.isfinite(reach):
                return np.nan
            longest = max(longest, reach)
        return longest

    if threads == 1:
        lengths = [shard(0)]
    else:
        with ThreadPoolExecutor(threads, initializer=alone) as pool:
            lengths = list(pool.map(shard, range(threads)))
    found = torch.from_numpy(scores)
    return found, found.view(len(asked), -1, _GROUP).amax(2), float(np.max(lengths))  # NaN stays
