"""CSLS at full strength: how many neighbours, and how much of the hubness is taken off."""

from __future__ import annotations

from itertools import product
from typing import ClassVar

import torch

from rank_xmodal.scorers.query_bank import BankCorrected, Strength


class TunedCSLS(BankCorrected):
    """``score = cosine(q, c) - w r_k(c)``, r_k the mean cosine of c to its k nearest bank queries.

    k and w are chosen in the inner folds; CSLS itself has k = 10 and w = 1/2.

    References
    ----------
    Conneau et al.: Word Translation Without Parallel Data, ICLR 2018, arXiv 1710.04087.
    """

    name = "csls_tuned"
    label = "CSLS, k and weight chosen"
    paper = "Conneau et al.: Word Translation Without Parallel Data, ICLR 2018, arXiv:1710.04087"
    strengths: ClassVar[tuple[Strength, ...]] = (
        (10, 0.5),
        *((k, w) for k, w in product((1, 3, 10, 30, 100), (0.25, 0.5, 0.75, 1.0)) if (k, w) != (10, 0.5)),
    )

    def penalties(self, cosine: torch.Tensor, strengths: tuple[Strength, ...]) -> torch.Tensor:
        """Return ``w r_k``, (m, n) -> (m, S)."""
        most = min(int(max(k for k, _ in strengths)), cosine.shape[1])
        near = cosine.topk(most, dim=1).values
        return torch.stack([w * near[:, : int(k)].mean(1) for k, w in strengths], dim=1)
