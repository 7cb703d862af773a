"""Scoring lists with a trained ranker: the same architecture as allRank's, and our default one."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.corpus import embedding_set
from benchmarks.measure import Row, alternate, matmul_rate, row
from benchmarks.training_step import lists_of
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


def rows() -> Iterator[Row]:
    """Compare with allRank's `score` on stored features."""
    tensors, spread = lists_of(embedding_set(2_000))
    part = tensors.first(LISTS)
    plan = settings.parse({"features": "concat", "device": "cpu"})
    peer = build("allrank", ranker_config(plan, tensors.queries.shape[1], spread, LISTS)).eval()
    assert isinstance(peer, AllRankRanker)
    batch, labels = part.batch(torch.arange(LISTS))
    stored = torch.cat([batch.query[:, None].expand_as(batch.candidates), batch.candidates], dim=-1)
    places = torch.arange(stored.shape[1]).expand(stored.shape[:2])

    @torch.no_grad()
    def theirs() -> torch.Tensor:
        return peer.model.score(stored, labels == -1, places)

    for features, at_least in (("concat", 5.0), ("full", None)):
        plan = settings.parse({"features": features, "device": "cpu"})
        model = build("rank_xmodal", ranker_config(plan, tensors.queries.shape[1], spread, LISTS)).eval()
        name = "the paper's architecture" if features == "concat" else "our default one"
        pairs = alternate(lambda model=model: score_lists(model, part), theirs)  # type: ignore[misc]
        limit = least_work() / matmul_rate() if features == "concat" else None
        yield row(f"scoring {LISTS} lists, {name}", "allRank's score", pairs, at_least, limit=limit)
