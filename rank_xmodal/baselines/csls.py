"""CSLS: cosine less hubness, with the training queries as query bank."""

from __future__ import annotations

import torch

from rank_xmodal.baselines.base import Unfitted
from rank_xmodal.query_bank import hubness
from rank_xmodal.ranker import ListBatch


def csls(batch: ListBatch) -> torch.Tensor:
    """Return 2 cosine(q, c) - r(c), (B, L), r the mean cosine of c to its 10 nearest bank queries.

    Cross-domain similarity local scaling (Conneau et al. 2018, arXiv 1710.04087). Its term r(q) is the same for all
    candidates of a query and is left out.
    """
    return 2 * batch.cosine - hubness(batch.neighbour_cosine)


class CSLS(Unfitted):
    """The function `csls` as a baseline. The bank comes with the batch; there is nothing to fit."""

    name = "csls"
    paper = "Conneau et al.: Word Translation Without Parallel Data, ICLR 2018, arXiv:1710.04087"

    def score(self, batch: ListBatch) -> torch.Tensor:
        """Return ``2 cosine(q, c) - r(c)``, (B, L)."""
        return csls(batch)
