"""Judging by several workers: each ranks and scores blocks of queries against the whole gallery."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from rank_xmodal.data.embedding_set import EmbeddingSet, check_direction
from rank_xmodal.errors import UserError
from rank_xmodal.lists.list_tensors import Near
from rank_xmodal.parallel import Executor
from rank_xmodal.retrieval.gallery import RankedGallery, judged_queries
from rank_xmodal.retrieval.query_bank import Neighbours
from rank_xmodal.scorers import Stack
from rank_xmodal.scorers.stack import first_gallery, rows_of, score_rows
from rank_xmodal.use.reranker import Reranker

_QUERIES = 1_024  # a multiple of what is scored at a time: the batches, and so the bits, are those of one process

_Scored = tuple[RankedGallery, dict[str, torch.Tensor]]


def ranked_and_scored(
    run: Path, reranker: Reranker, data: EmbeddingSet, split: str, depth: int, own: bool, executor: Executor
) -> _Scored:
    """Return the ranked gallery of a split, and each row's scores of its lists, (Q, L) by name.

    Parameters
    ----------
    run : Path
        The run's folder, and
    reranker : Reranker
        what it holds.
    data : EmbeddingSet
        From its folder, which each worker opens.
    split : str
    depth : int
    own : bool
        Whether the first stage is the run's own.
    executor : Executor

    Raises
    ------
    UserError
        As `first_gallery`, or if the set has no folder.
    """
    if data.root is None:
        raise UserError(f"{data.name}: was never written, and other processes couldn't open it. Write it first.")
    queries = judged_queries(data, check_direction(reranker.facts["direction"]), split)
    parts = [queries[start : start + _QUERIES] for start in range(0, len(queries), _QUERIES)]
    device = executor.device(str(reranker.device))
    open_ = partial(_open, run.absolute(), data.root.absolute(), split, depth, own, device)
    found: dict[int, _Scored] = {}
    for finished in executor.map(open_, parts, gpu=device != "cpu"):
        found[finished.number] = finished.get()
    whole = [found[number] for number in range(len(parts))]
    gallery = RankedGallery.join([gallery for gallery, _ in whole])
    return gallery, {row: torch.cat([scores[row] for _, scores in whole]) for row in whole[0][1]}


def _open(run: Path, root: Path, split: str, depth: int, own: bool, device: str) -> Callable[[np.ndarray], _Scored]:
    data, reranker = EmbeddingSet.open(root), Reranker.from_pretrained(run, device)
    direction = check_direction(reranker.facts["direction"])
    rows, gallery_rows = rows_of(reranker.stack, data), data.candidate_rows(direction, split)
    known: dict[tuple[int, int], Neighbours] = {}

    def near(stack: Stack) -> Near:
        key = id(stack.base), id(stack.bank)
        if key not in known:  # block after block asks for the same candidates
            known[key] = stack.neighbours(np.asarray(data.candidates(direction)[gallery_rows]))
        return lambda asked: known[key].of(np.searchsorted(gallery_rows, asked))

    def work(queries: np.ndarray) -> _Scored:
        gallery = first_gallery(reranker.stack, data, direction, split, depth, own=own, queries=queries)
        return gallery, score_rows(rows, data, gallery.lists, reranker.device, near)

    return work
