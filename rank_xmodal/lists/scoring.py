"""Scoring every list, a batch at a time, the corpus projected once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rank_xmodal.evaluation.judging import per_query
from rank_xmodal.lists.list_tensors import ListTensors, ScoresLists
from rank_xmodal.retrieval.gallery import RankedGallery


@torch.inference_mode()
def score_lists(scorer: ScoresLists, tensors: ListTensors, batch_size: int = 64) -> torch.Tensor:
    """Score every list, (Q, L) float32 on the CPU; 64 at a time stay in the cache."""
    if scorer.needs.content:  # it cuts the work for itself, and says once what it could not score
        batch_size = max(len(tensors), 1)
    tensors, parts = tensors.projected_by(scorer), []
    for index in torch.arange(len(tensors), device=tensors.rows.device).split(batch_size):
        batch, _ = tensors.batch(index)
        parts.append(scorer.score(batch).float().cpu())
    return torch.cat(parts)


@dataclass(frozen=True)
class HeldOut:
    """A ranked gallery to choose by, its lists ready to be scored.

    Attributes
    ----------
    gallery : RankedGallery
    tensors : ListTensors
    group : ndarray (Q,), int64, or None
        Which queries are no independent witnesses, as the captions of an image.
    """

    gallery: RankedGallery
    tensors: ListTensors
    group: np.ndarray | None = None

    def judge(self, scorer: ScoresLists) -> dict[str, torch.Tensor]:
        """Return every metric of every query, (Q,) float64 each."""
        return per_query(score_lists(scorer, self.tensors), self.gallery)
