"""CLIP's own ranking: the cosine."""

from __future__ import annotations

import torch

from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.needs import Needs
from rank_xmodal.retrieval.retriever import Space, Unmapped
from rank_xmodal.scorers.base import Scorer


class Cosine(Scorer):
    """``score = cosine(q, c)``, the first stage itself.

    References
    ----------
    Radford et al.: Learning Transferable Visual Models From Natural Language Supervision, ICML 2021, arXiv 2103.00020.
    """

    name = "clip"
    label = "CLIP"
    paper = "Radford et al.: Learning Transferable Visual Models From Natural Language Supervision, ICML 2021"

    @property
    def needs(self) -> Needs:
        """The base's score."""
        return Needs(base=True)

    @property
    def space(self) -> Space:
        """CLIP's own."""
        return Unmapped()

    def score(self, batch: ListBatch) -> torch.Tensor:
        """Return the cosines, (B, L)."""
        return batch.cosine
