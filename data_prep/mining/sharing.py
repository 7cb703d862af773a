"""Mining by several workers: blocks of queries against a gallery that all of them read, or shards of the gallery."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.mining import clean, natural, paper
from data_prep.mining.work import Lists, Part, Work, rows_of
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.parallel import Executor
from rank_xmodal.retrieval.exact import top_candidates
from rank_xmodal.retrieval.sharded import merged, shards_of

_Block = tuple[np.ndarray, tuple[int, int], int]  # queries, the shard's start and stop, and a depth


def parts_of(protocol: str, work: Work, queries: np.ndarray) -> Iterator[Part]:
    """Yield what can be mined independently of the rest; together they hold every query (Q,) once."""
    return natural.parts(work, queries) if protocol == "natural" else work.blocks(queries)


def lists_of(protocol: str, work: Work, queries: np.ndarray, part: Part) -> Lists:
    """Mine a part's lists."""
    asked = queries[part.places]
    if part.gallery is not None:
        return natural.natural(work, asked, part.gallery)
    return (clean.clean if protocol == "clean" else paper.paper)(work, asked)


def mined(
    protocol: str, work: Work, queries: np.ndarray, executor: Executor, shards: int
) -> Iterator[tuple[int, Part, Lists]]:
    """Yield number, part and lists as they are mined, in whatever order."""
    parts = list(parts_of(protocol, work, queries))
    with_all = work.pool == len(work.gallery) and protocol != "natural"
    if shards > 1 and with_all:
        work = replace(work, top=partial(_top, executor, work, shards))
        for number, part in enumerate(parts):
            yield number, part, lists_of(protocol, work, queries, part)
        return
    data = executor.shared(_sendable(work.data), _again(work.data))
    facts = (work.direction, work.gallery, work.negatives, work.pool, work.seed, work.filters, work.block)
    open_ = partial(_open, protocol, data, facts, queries)
    for finished in executor.map(open_, parts):
        yield finished.number, parts[finished.number], finished.get()


def _open(
    protocol: str, data: Callable[[], EmbeddingSet], facts: tuple[Any, ...], queries: np.ndarray
) -> Callable[[Part], Lists]:
    return partial(lists_of, protocol, Work(data(), *facts), queries)


def _sendable(data: EmbeddingSet) -> EmbeddingSet:
    """Return the set with its arrays as such: Ray shares an array's memory, and copies a memory map's."""
    return replace(data, image_emb=np.asarray(data.image_emb), text_emb=np.asarray(data.text_emb), cut_of=None)


def _again(data: EmbeddingSet) -> Callable[[], EmbeddingSet]:
    """Return what makes the set in another process: its folder's, or itself where it is a part or was never written."""
    if data.root is not None and data.cut_of is None:
        return partial(_opened, data.root.absolute(), data.fingerprint)
    return partial(_itself, _sendable(data))


@lru_cache(maxsize=1)
def _opened(root: Path, fingerprint: str) -> EmbeddingSet:
    """Return the set in a folder, opened once in a worker.

    Raises
    ------
    UserError
        If it is another one there.
    """
    data = EmbeddingSet.open(root)
    if data.fingerprint != fingerprint:
        raise UserError(
            f"{root}: a worker finds another set there. Give every machine the same, and repeat the command."
        )
    return data


def _itself(data: EmbeddingSet) -> EmbeddingSet:
    return data


def _top(executor: Executor, work: Work, shards: int, queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the top of the gallery, found shard by shard: places in it (Q, depth) and cosines."""
    bounds = shards_of(len(work.gallery), shards)
    open_ = partial(_open_shards, _again(work.data), work.direction, work.gallery)
    asked = work.query_emb[queries]
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for finished in executor.map(open_, [(asked, bound, depth) for bound in bounds]):
        found[finished.number] = finished.get()
    return merged([found[number] for number in range(len(bounds))], [start for start, _ in bounds], depth)


def _open_shards(
    data: Callable[[], EmbeddingSet], direction: Direction, gallery: np.ndarray
) -> Callable[[_Block], tuple[np.ndarray, np.ndarray]]:
    return partial(_of_shard, data().candidates(direction), gallery)


def _of_shard(candidates: np.ndarray, gallery: np.ndarray, block: _Block) -> tuple[np.ndarray, np.ndarray]:
    queries, (start, stop), depth = block
    return top_candidates(queries, rows_of(candidates, gallery[start:stop]), min(depth, stop - start))
