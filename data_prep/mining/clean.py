"""Protocol clean: no relevant item and no duplicate of one is ever a negative; one positive is added."""

from __future__ import annotations

import numpy as np

from data_prep.mining.work import Lists, Work, ordered
from rank_xmodal.errors import UserError
from rank_xmodal.retrieval.exact import exact_cosine


def clean(work: Work, queries: np.ndarray) -> Lists:
    """Mine the lists of queries (Q,), see the module."""
    positive, grade = work.positives(queries)
    similarity = exact_cosine(work.query_emb, work.candidate_emb, queries, positive[:, None])[:, 0]
    rows = np.empty((len(queries), work.negatives), dtype=np.int64)
    cosine = np.empty((len(queries), work.negatives), dtype=np.float32)
    dropped: dict[str, int] = {}
    # Of a pool, everything is ranked. Of a whole gallery, the top is, and more of it for whom that won't do.
    first = work.pool if work.pool < len(work.gallery) else min(work.pool, _depth(work, queries))
    todo, depth = np.arange(len(queries)), first
    while len(todo):
        enough = _choose(work, queries, todo, depth, similarity, rows, cosine, dropped)
        todo = todo[~enough]
        if len(todo) and depth == work.pool:
            _too_few(work, queries, todo[0], similarity)
        depth = min(4 * depth, work.pool)
    labels = np.zeros((len(queries), work.negatives + 1), dtype=np.int8)
    labels[:, 0] = grade
    rows = np.column_stack([positive, rows])
    cosine = np.column_stack([similarity, cosine])
    return *ordered(rows, labels, cosine), dropped


def _depth(work: Work, queries: np.ndarray) -> int:
    """Return how many of the most similar candidates of a gallery are enough for most queries."""
    if work.filters.limits(np.zeros(0)):  # how much they drop is unknown
        return 2 * work.negatives + work.filters.range_min + 32
    relevant = work.data.relevance_matrix(work.direction).indptr
    most = int((relevant[queries + 1] - relevant[queries]).max())
    return work.negatives + work.filters.range_min + min(most, work.negatives) + 16  # and some duplicates


def _choose(
    work: Work,
    queries: np.ndarray,
    todo: np.ndarray,
    depth: int,
    similarity: np.ndarray,
    rows: np.ndarray,
    cosine: np.ndarray,
    dropped: dict[str, int],
) -> np.ndarray:
    """Fill in the negatives of the queries at `todo` for whom the top `depth` is enough; say who they are."""
    ranked, scores = work.ranked(queries[todo], depth)
    reasons = _reasons(work, queries[todo], ranked, scores, similarity[todo])
    free = ~np.any(list(reasons.values()), axis=0)
    chosen = free & (np.cumsum(free, axis=1) > work.filters.range_min)
    chosen &= np.cumsum(chosen, axis=1) <= work.negatives
    enough = chosen.sum(axis=1) == work.negatives
    rows[todo[enough]] = ranked[enough][chosen[enough]].reshape(-1, work.negatives)
    cosine[todo[enough]] = scores[enough][chosen[enough]].reshape(-1, work.negatives)
    last = depth - np.argmax(chosen[:, ::-1], axis=1)  # one past the last one chosen
    seen = (np.arange(depth)[None] < last[:, None]) & enough[:, None]
    for name, mask in reasons.items():
        dropped[name] = dropped.get(name, 0) + int((mask & seen).sum())
    skipped = min(work.filters.range_min, depth) * int(enough.sum())
    if work.filters.range_min:
        dropped["range_min"] = dropped.get("range_min", 0) + skipped
    return enough


def _reasons(
    work: Work, queries: np.ndarray, ranked: np.ndarray, scores: np.ndarray, similarity: np.ndarray
) -> dict[str, np.ndarray]:
    """Return by filter which candidates it drops (Q, L); each is dropped by one filter, the first that applies."""
    reasons = {"relevant or duplicate": work.protected.of(queries, ranked)}
    gone = reasons["relevant or duplicate"]
    for name, limit in work.filters.limits(similarity).items():
        reasons[name] = ~gone & (scores > limit[:, None])
        gone = gone | reasons[name]
    return reasons


def _too_few(work: Work, queries: np.ndarray, place: int, similarity: np.ndarray) -> None:
    query = queries[place : place + 1]
    ranked, scores = work.ranked(query, work.pool)
    reasons = _reasons(work, query, ranked, scores, similarity[place : place + 1])
    free = int((~np.any(list(reasons.values()), axis=0)).sum())
    left = max(0, free - work.filters.range_min)
    counts = {**{name: int(mask.sum()) for name, mask in reasons.items()}, "range_min": free - left}
    taken = ", ".join(f"{name} {count}" for name, count in counts.items() if count) or "nothing"
    remedy = ["decrease --negatives"]
    if work.pool < len(work.gallery):
        remedy.append("increase --pool")
    remedy += [
        f"relax --{name.replace('_', '-')}" for name, count in counts.items() if count and name in vars(work.filters)
    ]
    raise UserError(
        f"Cannot mine {work.negatives} negatives per query: only {left} candidates remain for query row {query[0]} "
        f"out of a pool of {work.pool} (dropped: {taken}). Consider: {', '.join(remedy)}."
    )
