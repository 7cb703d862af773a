"""Scoring lists with a trained ranker: the same architecture as allRank's, and our default one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch

from benchmarks.corpus import embedding_set
from benchmarks.measure import Row, alternate_apart, matmul_rate, row
from benchmarks.training_step import lists_of, model_of
from rank_xmodal import settings
from rank_xmodal.allrank_ranker import AllRankRanker
from rank_xmodal.evaluation import score_lists
from rank_xmodal.ranker_folder import build
from rank_xmodal.training import ranker_config

LISTS = 256


def least_work(length: int = 51, d_model: int = 64, d_ff: int = 128, layers: int = 2) -> float:
    """Return the floating-point operations of scoring them where the corpus is projected already."""
    weights = 4 * d_model**2 + 2 * d_model * d_ff + 2 * length * d_model
    return 2 * LISTS * length * layers * weights


def ours(features: Literal["concat", "full"]) -> Callable[[], object]:
    """Return a function that scores the lists with our ranker, the corpus projected anew each time."""
    tensors, spread = lists_of(embedding_set(2_000))
    plan = settings.parse({"features": features, "device": "cpu"})
    model = build("rank_xmodal", ranker_config(plan, tensors.queries.shape[1], spread, LISTS)).eval()
    part = tensors.first(LISTS)
    return lambda: score_lists(model, part)


def theirs() -> Callable[[], object]:
    """Return a function that scores the same lists with allRank's model, their features stored."""
    tensors, spread = lists_of(embedding_set(2_000))
    model = model_of("allrank", tensors, spread).eval()
    assert isinstance(model, AllRankRanker)
    batch, labels = tensors.batch(torch.arange(LISTS))
    stored = torch.cat([batch.query[:, None].expand_as(batch.candidates), batch.candidates], dim=-1)
    places = torch.arange(stored.shape[1]).expand(stored.shape[:2])

    @torch.no_grad()
    def score() -> None:
        model.model.score(stored, labels == -1, places)

    return score


def rows() -> Iterator[Row]:
    """Compare with allRank's `score` on stored features."""
    pairs = alternate_apart((ours, ("concat",)), (theirs, ()), times=3, repeats=7)
    limit = least_work() / matmul_rate()
    yield row(f"scoring {LISTS} lists, the paper's architecture", "allRank's score", pairs, 5.0, limit=limit)
    pairs = alternate_apart((ours, ("full",)), (theirs, ()), times=3, repeats=7)
    yield row(f"scoring {LISTS} lists, our default one", "allRank's score", pairs, None)
