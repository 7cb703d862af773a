"""The inverted softmax: how likely is this query, of all that might ask for the candidate."""

from __future__ import annotations

import torch

from rank_xmodal.baselines.base import Unfitted
from rank_xmodal.features import TEMPERATURE, soft_maximum
from rank_xmodal.ranker import ListBatch

__all__ = ["TEMPERATURE", "InvertedSoftmax", "inverted_softmax"]


def inverted_softmax(batch: ListBatch) -> torch.Tensor:
    """Return ``cosine(q, c) - T log sum_b exp(cosine(b, c) / T)``, (B, L), b the bank queries nearest to c.

    T times the logarithm of ``exp(cosine(q, c) / T) / sum_b exp(cosine(b, c) / T)`` (Smith et al. 2017,
    arXiv 1702.03859), which orders a list the same and never overflows. The sum goes over the ten nearest bank
    queries: at T = 0.02 those farther off add next to nothing. The paper fits T; here it is `TEMPERATURE`, as in the
    ranker's features.
    """
    return batch.cosine - soft_maximum(batch.neighbour_cosine)


class InvertedSoftmax(Unfitted):
    """The function `inverted_softmax` as a baseline. The bank comes with the batch; there is nothing to fit."""

    name = "inverted_softmax"
    paper = (
        "Smith et al.: Offline bilingual word vectors, orthogonal transformations and the inverted softmax, "
        "ICLR 2017, arXiv:1702.03859"
    )

    def score(self, batch: ListBatch) -> torch.Tensor:
        """Return ``cosine(q, c) - T log sum_b exp(cosine(b, c) / T)``, (B, L)."""
        return inverted_softmax(batch)
