"""The inverted softmax: how likely is this query, of all that might ask for the candidate."""

from __future__ import annotations

from typing import ClassVar

import torch

from rank_xmodal.scorers.query_bank import BankCorrected, Strength


class InvertedSoftmax(BankCorrected):
    """``score = cosine(q, c) - T log sum_b exp(cosine(b, c) / T)``, b all queries of the bank.

    T times the logarithm of ``exp(cosine(q, c) / T) / sum_b exp(cosine(b, c) / T)``, which orders a list the same and
    never overflows. T is chosen in the inner folds.

    References
    ----------
    Smith et al.: Offline bilingual word vectors, orthogonal transformations and the inverted softmax, ICLR 2017,
    arXiv 1702.03859; as query-bank normalisation: Bogolin et al.: Cross Modal Retrieval with Querybank Normalisation,
    CVPR 2022, arXiv 2112.12777.
    """

    name = "inverted_softmax"
    label = "inverted softmax"
    paper = (
        "Smith et al.: Offline bilingual word vectors, orthogonal transformations and the inverted softmax, "
        "ICLR 2017, arXiv:1702.03859"
    )
    strengths: ClassVar[tuple[Strength, ...]] = tuple(
        (temperature,) for temperature in (0.02, 0.005, 0.01, 0.03, 0.05, 0.07, 0.1, 0.2, 0.5)
    )

    def penalties(self, cosine: torch.Tensor, strengths: tuple[Strength, ...]) -> torch.Tensor:
        """Return ``T log mean_b exp(cosine(b, c) / T)``, (m, n) -> (m, S)."""
        return torch.stack([t * torch.logsumexp(cosine / t, dim=1) for (t,) in strengths], dim=1)
