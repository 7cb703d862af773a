"""Scoring lists with a trained ranker: the same architecture as allRank's, that over embeddings, and the default."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from benchmarks.corpus import embedding_set
from benchmarks.measure import Row, alternate_apart, matmul_rate, row
from benchmarks.training_step import lists_of, model_of
from rank_xmodal.lists.scoring import score_lists
from rank_xmodal.retrieval.query_bank import choose_bank, neighbours
from rank_xmodal.scorers.allrank import AllRankRanker
from rank_xmodal.scorers.context_aware.combine import Combination
from rank_xmodal.scorers.context_aware.evidence import FEATURES, Evidence
from rank_xmodal.scorers.context_aware.score_ranker import ScoreRanker
from rank_xmodal.scorers.context_aware.scorer import ContextAware

LISTS = 256
_AT_ONCE = 64  # what both sides are fastest with


def least_work(length: int = 51, d_model: int = 64, d_ff: int = 128, layers: int = 2) -> float:
    """Return the floating-point operations of scoring them where the corpus is projected already."""
    weights = 4 * d_model**2 + 2 * d_model * d_ff + 2 * length * d_model
    return 2 * LISTS * length * layers * weights


def ours(features: Literal["concat", "embeddings", "full"]) -> Callable[[], object]:
    """Return a function that scores the lists with our ranker.

    The corpus is projected anew each time; that of the default one, whose projection asks the whole query bank, once.
    """
    data = embedding_set(2_000)
    tensors, spread = lists_of(data)
    if features == "embeddings":  # with all that it looks at
        bank = np.asarray(data.text_emb[choose_bank(data, "t2i")])
        tensors = replace(
            tensors, neighbours=neighbours(data.image_emb, bank), group=torch.full_like(tensors.group, -1)
        )
    scorer = ContextAware(features=features)
    model = scorer.build(scorer.network_config(data.dim, spread, len(tensors))).eval()
    part = tensors.first(LISTS)
    if isinstance(model, ScoreRanker):
        evidence = Evidence.fit(data, "t2i", 0, torch.device("cpu"))
        model.take(Combination(torch.ones(len(FEATURES)), torch.ones(len(FEATURES)), 1.0), evidence)
        projected = part.projected_for(model.project)
        return lambda: [model.score(projected.batch(index)[0]) for index in torch.arange(LISTS).split(_AT_ONCE)]
    return lambda: score_lists(model, part)


def theirs() -> Callable[[], object]:
    """Return a function that scores the same lists with allRank's model, their features stored."""
    tensors, spread = lists_of(embedding_set(2_000))
    model = model_of("allrank", tensors, spread).eval()
    assert isinstance(model, AllRankRanker)
    batch, labels = tensors.batch(torch.arange(LISTS))
    stored = torch.cat([batch.query[:, None].expand_as(batch.candidates), batch.candidates], dim=-1)
    places = torch.arange(stored.shape[1]).expand(stored.shape[:2])

    parts = list(zip(stored.split(_AT_ONCE), labels.split(_AT_ONCE), places.split(_AT_ONCE), strict=True))

    @torch.no_grad()
    def score() -> None:
        for x, y, indices in parts:
            model.model.score(x, y == -1, indices)

    return score


def rows() -> Iterator[Row]:
    """Compare with allRank's `score` on stored features."""
    pairs = alternate_apart((ours, ("concat",)), (theirs, ()), times=3, repeats=7)
    limit = least_work() / matmul_rate()
    yield row(f"scoring {LISTS} lists, the paper's architecture", "allRank's score", pairs, 5.0, limit=limit)
    pairs = alternate_apart((ours, ("embeddings",)), (theirs, ()), times=3, repeats=7)
    yield row(f"scoring {LISTS} lists, ours over embeddings", "allRank's score", pairs, None)
    pairs = alternate_apart((ours, ("full",)), (theirs, ()), times=3, repeats=7)
    yield row(f"scoring {LISTS} lists, our default one, corpus projected", "allRank's score", pairs, None)
