"""The miner: for every query the candidates of highest cosine, under one of three protocols.

clean    a random pool (or everything); no relevant item and no duplicate of one is ever a negative; one positive added
natural  the top of a random gallery as large as the one a ranker will meet; labels as they fall
paper    as the paper's table must have been made: relevant items are not protected, so the positive may stand twice,
         and its siblings are labelled 0
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

import numpy as np

from data_prep.mining.filters import Filters
from data_prep.mining.sharing import mined
from data_prep.mining.statistics import similarities
from data_prep.mining.work import Lists, Work
from rank_xmodal.data.candidate_lists import PADDING, CandidateLists
from rank_xmodal.data.checks import check_common_space
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet, check_direction
from rank_xmodal.errors import UserError
from rank_xmodal.parallel import Executor, Serial

PROTOCOLS = ("clean", "natural", "paper")


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
    executor: Executor | None = None,
    shards: int = 1,
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
    executor : Executor or None
        Who mines, a block of queries after the other: this process if not given. It changes nothing in the lists.
    shards : int, 1 or more
        Under clean and paper with the pool "all": into how many parts the gallery is cut, which are searched one beside
        the other and merged exactly, where no worker can hold all of it.

    Returns
    -------
    CandidateLists
        One list a query; under natural without the queries that have nothing relevant in their list. ``info`` holds
        direction, split, the settings, the fingerprint of `data` and the statistics.

    Raises
    ------
    UserError
        If a setting makes no sense, images and texts lie in no common space, or too few candidates are left for some
        query.
    """
    check_direction(direction)
    check_common_space(data)
    filters = Filters(range_min, absolute_margin, relative_margin, max_score)
    _check(negatives, pool, protocol, seed)
    if shards < 1 or (shards > 1 and (pool != "all" or protocol == "natural")):
        raise UserError(f"shards={shards}: must be 1, or with the pool 'all' of clean or paper more.")
    filters.check(protocol)
    gallery = data.candidate_rows(direction, split)
    queries = data.query_rows(direction, split)
    if not len(queries):
        raise UserError(f"{data.root or data.name}: no {direction} query of split {split!r} has a relevant candidate.")
    size = len(gallery) if pool == "all" else min(pool, len(gallery))
    work = Work(data, direction, gallery, negatives, size, seed, filters, block)
    rows, labels, cosine, dropped = _mined(protocol, work, queries, executor or Serial(), shards, progress)
    found = (labels > 0).any(axis=1)
    if not found.any():
        raise UserError(
            f"{data.root or data.name}: no {direction} query of split {split!r} has a relevant candidate in its list. "
            "Increase --negatives or choose --protocol clean."
        )
    if not found.all():  # one after the other, and none where nothing is lost: lists may fill half of the memory
        queries = queries[found]
        rows = rows[found]
        labels = labels[found]
        cosine = cosine[found]
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
            "cosine": similarities(cosine, labels),
            "dropped": dropped,
            "queries_without_hit": int((~found).sum()),
            "relevant_labelled_0": _mislabelled(data, direction, queries, rows, labels),
        },
    }
    return CandidateLists(queries.astype(np.int32), rows, labels, cosine, info)


def _mined(
    protocol: str,
    work: Work,
    queries: np.ndarray,
    executor: Executor,
    shards: int,
    progress: Callable[[int, int], None],
) -> Lists:
    """Mine all parts, and put their lists where their queries stand."""
    length = min(work.negatives + 1, len(work.gallery)) if protocol == "natural" else work.negatives + 1
    shape = (len(queries), length)
    rows, labels = np.full(shape, PADDING, dtype=np.int32), np.zeros(shape, dtype=np.int8)
    cosine = np.zeros(shape, dtype=np.float32)
    told: dict[int, dict[str, int]] = {}
    done = 0
    for number, part, found in mined(protocol, work, queries, executor, shards):
        rows[part.places], labels[part.places], cosine[part.places], told[number] = found
        done += len(part.places)
        progress(done, len(queries))
    dropped: dict[str, int] = {}
    for _, counts in sorted(told.items()):
        for name, count in counts.items():
            dropped[name] = dropped.get(name, 0) + count
    if (rows[:, -1] == PADDING).all():  # galleries smaller than the list
        width = int((rows != PADDING).sum(axis=1).max())
        rows, labels, cosine = rows[:, :width], labels[:, :width], cosine[:, :width]
    return rows, labels, cosine, dropped


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
