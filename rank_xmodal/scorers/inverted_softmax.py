"""The inverted softmax: how likely is this query, of all that might ask for the candidate."""

from __future__ import annotations

import torch

from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.needs import Needs
from rank_xmodal.retrieval.query_bank import soft_maximum
from rank_xmodal.scorers.base import Scorer


class InvertedSoftmax(Scorer):
    """``score = cosine(q, c) - T log sum_b exp(cosine(b, c) / T)``, b the bank queries nearest to c.

    T times the logarithm of ``exp(cosine(q, c) / T) / sum_b exp(cosine(b, c) / T)``, which orders a list the same and
    never overflows. The sum goes over the ten nearest bank queries: at T = 0.02 those farther off add next to nothing.
    The paper fits T; here it is `query_bank.TEMPERATURE`, as in the ranker's features.

    References
    ----------
    Smith et al.: Offline bilingual word vectors, orthogonal transformations and the inverted softmax, ICLR 2017,
    arXiv 1702.03859.
    """

    name = "inverted_softmax"
    label = "inverted softmax"
    paper = (
        "Smith et al.: Offline bilingual word vectors, orthogonal transformations and the inverted softmax, "
        "ICLR 2017, arXiv:1702.03859"
    )

    @property
    def needs(self) -> Needs:
        """The base's score and hubness."""
        return Needs(base=True, neighbours=True)

    def score(self, batch: ListBatch) -> torch.Tensor:
        """Return ``cosine(q, c) - T log sum_b exp(cosine(b, c) / T)``, (B, L)."""
        return batch.cosine - soft_maximum(batch.neighbour_cosine)
