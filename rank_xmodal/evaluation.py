"""Evaluation over a whole gallery: CLIP finds the top candidates, a ranker reorders them, misses count as misses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from rank_xmodal import metrics
from rank_xmodal.baselines.csls import csls
from rank_xmodal.calibration import Calibration, average_precision, reliability
from rank_xmodal.candidate_lists import CandidateLists
from rank_xmodal.embedding_set import Direction, EmbeddingSet
from rank_xmodal.list_tensors import ListTensors
from rank_xmodal.query_bank import Neighbours
from rank_xmodal.ranker import ListBatch
from rank_xmodal.topk import top_candidates

DEPTH = 51
MEAN_RANK = "MeanRank"


@dataclass(frozen=True)
class FirstStage:
    """CLIP's top list for every query of a split, out of the split's whole gallery.

    Attributes
    ----------
    lists : CandidateLists
        Ordered by descending cosine, ties by row.
    n_relevant : Tensor (Q,), int64
        Relevant candidates in the gallery.
    rank_below : Tensor (Q,), float64
        Where the list holds nothing relevant: the rank of the best relevant candidate in the gallery. Reordering the
        list can't change it. Elsewhere infinite.
    gallery : int
        Candidates in the gallery.
    """

    lists: CandidateLists
    n_relevant: torch.Tensor
    rank_below: torch.Tensor
    gallery: int

    @property
    def ceiling(self) -> float:
        """Share of queries whose list holds a relevant candidate: no reordering can exceed it."""
        return float((self.lists.labels > 0).any(axis=1).mean())


def first_stage(data: EmbeddingSet, direction: Direction, split: str, depth: int = DEPTH) -> FirstStage:
    """Rank the split's gallery by cosine for every query that has a relevant candidate in it.

    Raises
    ------
    UserError
        If the split is empty.
    """
    gallery = data.candidate_rows(direction, split)
    queries = data.query_rows(direction, split)
    depth = min(depth, len(gallery))
    query_emb = np.asarray(data.queries(direction)[queries])
    gallery_emb = np.asarray(data.candidates(direction)[gallery])
    rows, cosine = top_candidates(query_emb, gallery_emb, depth)
    candidates = gallery[rows]
    labels = data.grades(direction, queries, candidates)
    relevant = data.relevance_matrix(direction)[queries][:, gallery].tocsr()
    below = np.full(len(queries), np.inf)
    for place in np.flatnonzero(~(labels > 0).any(axis=1)):
        scores = gallery_emb.astype(np.float32) @ query_emb[place].astype(np.float32)
        own = relevant.indices[relevant.indptr[place] : relevant.indptr[place + 1]]
        others = np.ones(len(gallery), dtype=bool)
        others[own] = False
        below[place] = 1 + np.count_nonzero(scores[others] >= scores[own].max())
    info = {"direction": direction, "split": split, "protocol": "gallery", "fingerprint": data.fingerprint}
    lists = CandidateLists(queries.astype(np.int32), candidates.astype(np.int32), labels, cosine, info)
    counts = torch.from_numpy(np.diff(relevant.indptr).astype(np.int64))
    return FirstStage(lists, counts, torch.from_numpy(below), len(gallery))


def per_query(scores: torch.Tensor, stage: FirstStage) -> dict[str, torch.Tensor]:
    """Return every metric of every query, (Q,) float64 each: the default metrics and the rank of the first relevant."""
    labels = torch.from_numpy(stage.lists.labels)
    values = {name: metrics.get(name)(scores, labels, n_relevant=stage.n_relevant).double() for name in metrics.DEFAULT}
    rank = metrics.first_relevant_rank(scores, labels).double()
    values[MEAN_RANK] = torch.where(torch.isinf(rank), stage.rank_below, rank)
    return values


def mean(values: dict[str, torch.Tensor]) -> dict[str, float]:
    """Return the mean over queries of each metric."""
    return {name: float(value.mean()) for name, value in values.items()}


@torch.inference_mode()
def score_lists(model: Callable[[ListBatch], torch.Tensor], tensors: ListTensors, batch_size: int = 64) -> torch.Tensor:
    """Score every list, (Q, L) float32 on the CPU; a module is put into evaluation mode for it and back after."""
    training = isinstance(model, nn.Module) and model.training
    if isinstance(model, nn.Module):
        model.eval()
    tensors, parts = tensors.projected_by(model), []
    for index in torch.arange(len(tensors), device=tensors.rows.device).split(batch_size):
        batch, _ = tensors.batch(index)
        parts.append(model(batch).float().cpu())
    if training and isinstance(model, nn.Module):
        model.train()
    return torch.cat(parts)


def score_rows(
    model: Callable[[ListBatch], torch.Tensor],
    data: EmbeddingSet,
    stage: FirstStage,
    neighbours: Neighbours,
    device: torch.device,
) -> dict[str, torch.Tensor]:
    """Return the scores of clip, csls and ranker, (Q, L) float32 each, on the CPU."""
    tensors = ListTensors.gather(data, stage.lists, neighbours, device, in_bank=False)
    return {
        "clip": torch.from_numpy(stage.lists.cosine),
        "csls": score_lists(csls, tensors),
        "ranker": score_lists(model, tensors),
    }


def evaluate(
    model: Callable[[ListBatch], torch.Tensor],
    data: EmbeddingSet,
    stage: FirstStage,
    neighbours: Neighbours,
    device: torch.device,
    calibration: Calibration | None = None,
) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]]]:
    """Compare CLIP, CSLS and a ranker on the same lists: `judge` over `score_rows`, and returns what `judge` does."""
    return judge(score_rows(model, data, stage, neighbours, device), stage, calibration)


def judge(
    scores: dict[str, torch.Tensor], stage: FirstStage, calibration: Calibration | None = None
) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]]]:
    """Say how good the scores of `score_rows` are.

    Returns
    -------
    dict
        direction, split, queries, candidates, ceiling, and under clip, csls and ranker the mean of each metric. With a
        calibration, under calibration what `reliability` says of it, and as clip_AP the average precision over all
        pairs of the cosine alone.
    dict
        The same metrics per query, (Q,) float64, for paired tests.
    """
    values = {name: per_query(value, stage) for name, value in scores.items()}
    report: dict[str, Any] = {
        "direction": stage.lists.direction,
        "split": stage.lists.info["split"],
        "queries": len(stage.lists),
        "candidates": stage.lists.length,
        "gallery": stage.gallery,
        "ceiling": stage.ceiling,
        **{name: mean(value) for name, value in values.items()},
    }
    if calibration is not None:
        valid = stage.lists.labels >= 0
        relevant = stage.lists.labels[valid] > 0
        probability = calibration.probability(scores["ranker"], torch.from_numpy(valid)).numpy()[valid]
        report["calibration"] = {
            **reliability(probability, relevant),
            "clip_AP": average_precision(stage.lists.cosine[valid], relevant),
        }
    return report, values
