"""CLIP's own ranking: the cosine."""

from __future__ import annotations

import torch

from rank_xmodal.baselines.base import Unfitted
from rank_xmodal.ranker import ListBatch


class CLIP(Unfitted):
    """``score = cosine(q, c)``, the first stage itself.

    Radford et al.: Learning Transferable Visual Models From Natural Language Supervision, ICML 2021, arXiv 2103.00020.
    """

    name = "clip"
    paper = "Radford et al.: Learning Transferable Visual Models From Natural Language Supervision, ICML 2021"

    def score(self, batch: ListBatch) -> torch.Tensor:
        """Return the cosines, (B, L)."""
        return batch.cosine
