"""Scoring every list, a batch at a time, the corpus projected once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from rank_xmodal.evaluation.judging import per_query
from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.list_tensors import ListTensors, ScoresLists
from rank_xmodal.retrieval.gallery import RankedGallery


@torch.no_grad()
def over_batches(tensors: ListTensors, function: Callable[[ListBatch], torch.Tensor], size: int = 64) -> torch.Tensor:
    """Return what a function of a batch makes of every list, (Q, ...) where the lists are; 64 at a time stay cached."""
    indices = torch.arange(len(tensors), device=tensors.rows.device).split(size)
    return torch.cat([function(tensors.batch(index)[0]) for index in indices])


@torch.inference_mode()
def score_lists(scorer: ScoresLists, tensors: ListTensors, batch_size: int = 64) -> torch.Tensor:
    """Score every list, (Q, L) float32 on the CPU."""
    if scorer.needs.content:  # it cuts the work for itself, and says once what it could not score
        batch_size = max(len(tensors), 1)
    return over_batches(tensors.projected_by(scorer), lambda batch: scorer.score(batch).float().cpu(), batch_size)


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
