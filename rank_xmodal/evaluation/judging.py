"""How good are scores of a ranked gallery's lists: every metric, a query at a time, misses counted as misses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from rank_xmodal import metrics
from rank_xmodal.evaluation.calibration import Calibration, average_precision, reliability
from rank_xmodal.retrieval.gallery import CLIP, RankedGallery

RANKER = "ranker"
"""The row of a report that a run is about; its other rows are what it is compared with."""
MEAN_RANK = "MeanRank"
SHOWN = (*metrics.DEFAULT, MEAN_RANK)
"""The metrics of a report, in order."""


def per_query(scores: torch.Tensor, gallery: RankedGallery) -> dict[str, torch.Tensor]:
    """Return every metric of every query, (Q,) float64 each: the default metrics and the rank of the first relevant."""
    labels = torch.from_numpy(gallery.lists.labels)
    values = {
        name: metrics.get(name)(scores, labels, n_relevant=gallery.n_relevant).double() for name in metrics.DEFAULT
    }
    rank = metrics.first_relevant_rank(scores, labels).double()
    values[MEAN_RANK] = torch.where(torch.isinf(rank), gallery.rank_below, rank)
    return values


def mean(values: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Return the mean over queries of each metric."""
    return {name: float(value.mean()) for name, value in values.items()}


def judge(
    scores: Mapping[str, torch.Tensor], gallery: RankedGallery, calibration: Calibration | None = None
) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]]]:
    """Say how good the scores of several rows are, all on the same lists.

    Parameters
    ----------
    scores : mapping of str to Tensor (Q, L)
        By the row's name.
    gallery : RankedGallery
        Whose lists were scored.
    calibration : Calibration or None
        That of the row "ranker".

    Returns
    -------
    dict
        direction, split, queries, candidates, gallery, first_stage, ceiling, rows (their names, in order) and under
        each of them the mean of each metric. With a calibration, under calibration what `reliability` says of it, and
        as clip_AP the average precision over all pairs of the cosine alone.
    dict
        The same metrics per query, (Q,) float64, for paired tests.
    """
    values = {name: per_query(value, gallery) for name, value in scores.items()}
    lists = gallery.lists
    report: dict[str, Any] = {
        "direction": lists.direction,
        "split": lists.info["split"],
        "queries": len(lists),
        "candidates": lists.length,
        "gallery": gallery.size,
        "first_stage": lists.info.get("first_stage", CLIP),
        "ceiling": gallery.ceiling,
        "rows": list(values),
        **{name: mean(value) for name, value in values.items()},
    }
    if calibration is not None:
        valid = lists.labels >= 0
        relevant = lists.labels[valid] > 0
        probability = calibration.probability(scores[RANKER], torch.from_numpy(valid)).numpy()[valid]
        report["calibration"] = {
            **reliability(probability, relevant),
            "clip_AP": average_precision(lists.cosine[valid], relevant),
        }
    return report, values
