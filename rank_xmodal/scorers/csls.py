"""CSLS: cosine less hubness, with the training queries as query bank."""

from __future__ import annotations

import torch

from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.needs import Needs
from rank_xmodal.retrieval.query_bank import hubness
from rank_xmodal.scorers.base import Scorer


class CSLS(Scorer):
    """``score = 2 cosine(q, c) - r(c)``, r the mean cosine of c to its 10 nearest bank queries.

    The term r(q) of the paper is the same for all candidates of a query and is left out. There is nothing to fit: the
    bank's neighbours come with the batch.

    References
    ----------
    Conneau et al.: Word Translation Without Parallel Data, ICLR 2018, arXiv 1710.04087.
    """

    name = "csls"
    takes_unaligned = True
    label = "CSLS"
    paper = "Conneau et al.: Word Translation Without Parallel Data, ICLR 2018, arXiv:1710.04087"

    @property
    def needs(self) -> Needs:
        """The base's score and hubness."""
        return Needs(base=True, neighbours=True)

    def score(self, batch: ListBatch) -> torch.Tensor:
        """Return ``2 cosine(q, c) - r(c)``, (B, L)."""
        return 2 * batch.cosine - hubness(batch.neighbour_cosine)
