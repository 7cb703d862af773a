"""The miner: for every query the candidates of highest cosine, under one of three protocols.

clean    a random pool (or everything); no relevant item and no duplicate of one is ever a negative; one positive added
natural  the top of a random gallery as large as the one a ranker will meet; labels as they fall
paper    as the paper's table must have been made: relevant items are not protected, so the positive may stand twice,
         and its siblings are labelled 0
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from data_prep.mining.pools import draw, mix
from data_prep.mining.protected import Protected
from data_prep.mining.statistics import similarities
from rank_xmodal.candidate_lists import PADDING, CandidateLists
from rank_xmodal.embedding_set import Direction, EmbeddingSet, check_direction
from rank_xmodal.errors import UserError
from rank_xmodal.topk import exact_cosine, top_candidates

PROTOCOLS = ("clean", "natural", "paper")
_POSITIVE, _GALLERY = 1, 2  # words that keep the hashes of different uses apart


@dataclass(frozen=True)
class Filters:
    """Which candidates are too easy, too hard or too risky to be negatives; protocol clean only.

    Attributes
    ----------
    range_min : int
        Skip this many of the most similar candidates that the other filters leave.
    absolute_margin : float or None
        Keep candidates whose cosine is at most the positive's less this.
    relative_margin : float or None
        The same with this share of the positive's absolute value: right for negative cosines too.
    max_score : float or None
        Keep candidates whose cosine is at most this.
    """

    range_min: int = 0
    absolute_margin: float | None = None
    relative_margin: float | None = None
    max_score: float | None = None

    def check(self, protocol: str) -> None:
        """Refuse values that can't be meant, and any value under another protocol than clean."""
        for name, value in asdict(self).items():
            option = f"--{name.replace('_', '-')}"
            if value in (None, 0) and not isinstance(value, float):
                continue
            if protocol != "clean":
                raise UserError(f"{option} {value}: works with --protocol clean only, not {protocol}. Leave it out.")
            if not np.isfinite(value) or (name != "max_score" and value < 0):
                raise UserError(f"{option} {value}: must be a finite number, 0 or more.")

    def limits(self, positive: np.ndarray) -> dict[str, np.ndarray]:
        """Return the highest allowed cosine by filter, from the positive's cosine (Q,)."""
        limits = {}
        if self.max_score is not None:
            limits["max_score"] = np.full_like(positive, self.max_score)
        if self.absolute_margin is not None:
            limits["absolute_margin"] = positive - np.float32(self.absolute_margin)
        if self.relative_margin is not None:
            limits["relative_margin"] = positive - np.abs(positive) * np.float32(self.relative_margin)
        return limits


def mine(
    data: EmbeddingSet,
    direction: Direction,
    split: str = "train",
    *,
    negatives: int = 50,
    pool: int | Literal["all"] = 200,
    protocol: str = "clean",
    seed: int = 0,
    range_min: int = 0,
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
    max_score: float | None = None,
    block: int = 4_096,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CandidateLists:
    """Mine candidate lists of `negatives` + 1 places, each in the order of descending cosine, ties by row.

    Parameters
    ----------
    data : EmbeddingSet
    direction : "t2i" or "i2t"
    split : str
    negatives : int, at least 1
    pool : int or "all"
        Under clean and paper: how many random candidates a query draws. Under natural: the size of the gallery.
    protocol : "clean", "natural" or "paper"
    seed : int
        With the query's row it decides the pool; the same seed gives the same lists whatever the block size, device or
        number of threads.
    range_min, absolute_margin, relative_margin, max_score
        See `Filters`.
    block : int
        Queries worked on at a time.
    progress : called with the queries done and their total

    Returns
    -------
    CandidateLists
        One list a query; under natural without the queries that have nothing relevant in their list. ``info`` holds
        direction, split, the settings, the fingerprint of `data` and the statistics.

    Raises
    ------
    UserError
        If a setting makes no sense, or too few candidates are left for some query.
    """
    check_direction(direction)
    filters = Filters(range_min, absolute_margin, relative_margin, max_score)
    _check(negatives, pool, protocol, seed)
    filters.check(protocol)
    gallery = data.candidate_rows(direction, split)
    queries = data.query_rows(direction, split)
    if not len(queries):
        raise UserError(f"{data.root or data.name}: no {direction} query of split {split!r} has a relevant candidate.")
    size = len(gallery) if pool == "all" else min(pool, len(gallery))
    work = _Work(data, direction, gallery, negatives, size, seed, filters, block, progress)
    rows, labels, cosine, dropped = {"clean": work.clean, "natural": work.natural, "paper": work.paper}[protocol](
        queries
    )
    found = (labels > 0).any(axis=1)
    if not found.any():
        raise UserError(
            f"{data.root or data.name}: no {direction} query of split {split!r} has a relevant candidate in its list. "
            "Increase --negatives or choose --protocol clean."
        )
    info: dict[str, Any] = {
        "direction": direction,
        "split": split,
        "protocol": protocol,
        "negatives": negatives,
        "pool": pool,
        "seed": seed,
        **asdict(filters),
        "fingerprint": data.fingerprint,
        "statistics": {
            "cosine": similarities(cosine[found], labels[found]),
            "dropped": dropped,
            "queries_without_hit": int((~found).sum()),
            "relevant_labelled_0": _mislabelled(data, direction, queries[found], rows[found], labels[found]),
        },
    }
    return CandidateLists(
        queries[found].astype(np.int32), rows[found].astype(np.int32), labels[found], cosine[found], info
    )


def _mislabelled(
    data: EmbeddingSet, direction: Direction, queries: np.ndarray, rows: np.ndarray, labels: np.ndarray
) -> int:
    return int(((data.grades(direction, queries, rows) > 0) & (labels == 0)).sum())


def _check(negatives: int, pool: int | str, protocol: str, seed: int) -> None:
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol={protocol!r}: must be one of {', '.join(PROTOCOLS)}.")
    if negatives < 1:
        raise UserError(f"negatives={negatives}: must be 1 or more.")
    if seed < 0:
        raise UserError(f"seed={seed}: must be 0 or more.")
    if pool != "all" and (isinstance(pool, str) or pool < 2):
        raise UserError(f"pool={pool!r}: must be 'all' or a number of candidates, 2 or more.")
    if pool != "all" and protocol != "natural" and int(pool) < negatives:
        raise UserError(
            f"Cannot mine {negatives} negatives per query from a pool of {pool}. "
            f"Decrease --negatives or increase --pool to at least {negatives}."
        )


Lists = tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, int]]


@dataclass
class _Work:
    """One mining: its inputs, and a method for each protocol that returns rows, labels, cosines and drop counts."""

    data: EmbeddingSet
    direction: Direction
    gallery: np.ndarray
    negatives: int
    pool: int
    seed: int
    filters: Filters
    block: int
    progress: Callable[[int, int], None]

    def __post_init__(self) -> None:
        self.query_emb = self.data.queries(self.direction)
        self.candidate_emb = self.data.candidates(self.direction)

    @cached_property
    def _gallery_emb(self) -> np.ndarray:
        first, last = self.gallery[0], self.gallery[-1]
        if last - first + 1 == len(self.gallery):  # ascending and distinct, so nothing is missing: no copy
            return self.candidate_emb[first : last + 1]
        return self.candidate_emb[self.gallery]

    def _depth(self, queries: np.ndarray) -> int:
        """Return how many of the most similar candidates of a gallery are enough for most queries."""
        if self.filters.limits(np.zeros(0)):  # how much they drop is unknown
            return 2 * self.negatives + self.filters.range_min + 32
        relevant = self.data.relevance_matrix(self.direction).indptr
        most = int((relevant[queries + 1] - relevant[queries]).max())
        return self.negatives + self.filters.range_min + min(most, self.negatives) + 16  # and some duplicates

    def _positives(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Choose one relevant candidate of the gallery for each query: its row (Q,) and grade (Q,)."""
        relevant = self.data.relevance_matrix(self.direction)[queries][:, self.gallery].tocsr()
        relevant.sort_indices()
        count = np.diff(relevant.indptr)
        place = relevant.indptr[:-1] + (mix(self.seed, _POSITIVE, queries) % count.astype(np.uint64)).astype(np.int64)
        return self.gallery[relevant.indices[place]], relevant.data[place].astype(np.int8)

    def _ranked(self, queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the `depth` most similar candidates of each query's pool: rows (Q, depth) and cosines."""
        if self.pool == len(self.gallery):
            rows, cosine = top_candidates(self.query_emb[queries], self._gallery_emb, depth)
            return self.gallery[rows], cosine
        rows = self.gallery[draw(self.seed, queries, len(self.gallery), self.pool)]
        cosine = exact_cosine(self.query_emb, self.candidate_emb, queries, rows)
        order = np.lexsort((rows, -cosine), axis=1)[:, :depth]
        return np.take_along_axis(rows, order, 1), np.take_along_axis(cosine, order, 1)

    def clean(self, queries: np.ndarray) -> Lists:
        protected = Protected(self.data, self.direction)
        positive, grade = self._positives(queries)
        similarity = exact_cosine(self.query_emb, self.candidate_emb, queries, positive[:, None])[:, 0]
        rows = np.empty((len(queries), self.negatives), dtype=np.int64)
        cosine = np.empty((len(queries), self.negatives), dtype=np.float32)
        dropped: dict[str, int] = {}
        # Of a pool, everything is ranked. Of a whole gallery, the top is, and more of it for whom that won't do.
        first = self.pool if self.pool < len(self.gallery) else min(self.pool, self._depth(queries))
        for start in range(0, len(queries), self.block):
            todo = np.arange(start, min(start + self.block, len(queries)))
            depth = first
            while len(todo):
                enough = self._choose(queries, todo, depth, protected, similarity, rows, cosine, dropped)
                todo = todo[~enough]
                if len(todo) and depth == self.pool:
                    self._too_few(queries, todo[0], protected, similarity)
                depth = min(4 * depth, self.pool)
            self.progress(min(start + self.block, len(queries)), len(queries))
        labels = np.zeros((len(queries), self.negatives + 1), dtype=np.int8)
        labels[:, 0] = grade
        rows = np.column_stack([positive, rows])
        cosine = np.column_stack([similarity, cosine])
        return *_ordered(rows, labels, cosine), dropped

    def _choose(
        self,
        queries: np.ndarray,
        todo: np.ndarray,
        depth: int,
        protected: Protected,
        similarity: np.ndarray,
        rows: np.ndarray,
        cosine: np.ndarray,
        dropped: dict[str, int],
    ) -> np.ndarray:
        """Fill in the negatives of the queries at `todo` for whom the top `depth` is enough; say who they are."""
        ranked, scores = self._ranked(queries[todo], depth)
        reasons = self._reasons(queries[todo], ranked, scores, protected, similarity[todo])
        free = ~np.any(list(reasons.values()), axis=0)
        chosen = free & (np.cumsum(free, axis=1) > self.filters.range_min)
        chosen &= np.cumsum(chosen, axis=1) <= self.negatives
        enough = chosen.sum(axis=1) == self.negatives
        rows[todo[enough]] = ranked[enough][chosen[enough]].reshape(-1, self.negatives)
        cosine[todo[enough]] = scores[enough][chosen[enough]].reshape(-1, self.negatives)
        last = depth - np.argmax(chosen[:, ::-1], axis=1)  # one past the last one chosen
        seen = (np.arange(depth)[None] < last[:, None]) & enough[:, None]
        for name, mask in reasons.items():
            dropped[name] = dropped.get(name, 0) + int((mask & seen).sum())
        skipped = min(self.filters.range_min, depth) * int(enough.sum())
        if self.filters.range_min:
            dropped["range_min"] = dropped.get("range_min", 0) + skipped
        return enough

    def _reasons(
        self, queries: np.ndarray, ranked: np.ndarray, scores: np.ndarray, protected: Protected, similarity: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return by filter which candidates it drops (Q, L); each is dropped by one filter, the first that applies."""
        reasons = {"relevant or duplicate": protected.of(queries, ranked)}
        gone = reasons["relevant or duplicate"]
        for name, limit in self.filters.limits(similarity).items():
            reasons[name] = ~gone & (scores > limit[:, None])
            gone = gone | reasons[name]
        return reasons

    def _too_few(self, queries: np.ndarray, place: int, protected: Protected, similarity: np.ndarray) -> None:
        query = queries[place : place + 1]
        ranked, scores = self._ranked(query, self.pool)
        reasons = self._reasons(query, ranked, scores, protected, similarity[place : place + 1])
        free = int((~np.any(list(reasons.values()), axis=0)).sum())
        left = max(0, free - self.filters.range_min)
        counts = {**{name: int(mask.sum()) for name, mask in reasons.items()}, "range_min": free - left}
        taken = ", ".join(f"{name} {count}" for name, count in counts.items() if count) or "nothing"
        remedy = ["decrease --negatives"]
        if self.pool < len(self.gallery):
            remedy.append("increase --pool")
        remedy += [
            f"relax --{name.replace('_', '-')}"
            for name, count in counts.items()
            if count and name in vars(self.filters)
        ]
        raise UserError(
            f"Cannot mine {self.negatives} negatives per query: only {left} candidates remain for query row {query[0]} "
            f"out of a pool of {self.pool} (dropped: {taken}). Consider: {', '.join(remedy)}."
        )

    def paper(self, queries: np.ndarray) -> Lists:
        positive, grade = self._positives(queries)
        if self.pool < self.negatives:
            raise UserError(
                f"Cannot mine {self.negatives} negatives per query: the split has only {len(self.gallery)} candidates. "
                "Decrease --negatives."
            )
        rows = np.empty((len(queries), self.negatives), dtype=np.int64)
        cosine = np.empty((len(queries), self.negatives), dtype=np.float32)
        for start in range(0, len(queries), self.block):
            part = slice(start, start + self.block)
            rows[part], cosine[part] = self._ranked(queries[part], self.negatives)
            self.progress(min(start + self.block, len(queries)), len(queries))
        similarity = exact_cosine(self.query_emb, self.candidate_emb, queries, positive[:, None])
        labels = np.zeros((len(queries), self.negatives + 1), dtype=np.int8)
        labels[:, -1] = grade
        return *_ordered(np.column_stack([rows, positive]), labels, np.column_stack([cosine, similarity])), {}

    def natural(self, queries: np.ndarray) -> Lists:
        depth = self.negatives + 1
        rows = np.full((len(queries), depth), PADDING, dtype=np.int64)
        cosine = np.zeros((len(queries), depth), dtype=np.float32)
        done = 0
        for members, asking in self._galleries(queries):
            width = min(depth, len(members))
            place, scores = top_candidates(self.query_emb[queries[asking]], self.candidate_emb[members], width)
            rows[asking, :width] = members[place]
            cosine[asking, :width] = scores
            done += len(asking)
            self.progress(done, len(queries))
        if (rows[:, -1] == PADDING).all():  # galleries smaller than the list
            width = int((rows != PADDING).sum(axis=1).max())
            rows, cosine = rows[:, :width], cosine[:, :width]
        return rows, self.data.grades(self.direction, queries, rows), cosine, {}

    def _galleries(self, queries: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Deal the candidates out into random galleries of `pool`; return each one's rows and its queries' places.

        What belongs together, as an image's captions do, stays together: a query finds all that is relevant to it in
        its gallery, as it will in use. The last gallery is filled up from the others.
        """
        relevant = self.data.relevance_matrix(self.direction)[queries][:, self.gallery].tocsr()
        links = sp.bmat([[None, relevant.T], [relevant, None]]).tocsr()
        joined = connected_components(links, directed=False)[1][: len(self.gallery)]
        group = np.unique(joined, return_inverse=True)[1]  # of each place of the gallery
        shuffled = np.argsort(mix(self.seed, _GALLERY, np.arange(group.max() + 1)), kind="stable")
        turn = np.empty_like(shuffled)
        turn[shuffled] = np.arange(len(shuffled))
        places = np.argsort(turn[group], kind="stable")  # of the gallery, group after group
        ends = np.cumsum(np.bincount(turn[group]))  # where each group ends in `places`
        asked = turn[group[relevant.indices[relevant.indptr[:-1]]]]  # the group that each query asks for
        found, first = [], 0
        while first < len(ends):
            start = ends[first - 1] if first else 0
            # Whole groups until the gallery is full: the last one may make it a little larger than `pool`.
            last = min(int(np.searchsorted(ends, start + self.pool)), len(ends) - 1)
            members = places[start : ends[last]]
            if len(members) < self.pool:
                members = np.concatenate([members, places[: self.pool - len(members)]])
            asking = np.flatnonzero((asked >= first) & (asked <= last))
            if len(asking):
                found.append((self.gallery[np.sort(members)], asking))
            first = last + 1
        return found


def _ordered(rows: np.ndarray, labels: np.ndarray, cosine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort every list by descending cosine, ties by row: the place of the positive gives nothing away."""
    order = np.lexsort((rows, -cosine), axis=1)
    return tuple(np.take_along_axis(a, order, 1) for a in (rows, labels, cosine))  # type: ignore[return-value]
