"""Reciprocal rank."""

from __future__ import annotations

from torch import Tensor

from rank_xmodal.metrics.first_relevant_rank import first_relevant_rank


def mrr(scores: Tensor, labels: Tensor) -> Tensor:
    """1 / rank of the first relevant item, 0 where no item is relevant; the mean over queries is MRR.

    Args:
        scores: (Q, L).
        labels: (Q, L); above 0 is relevant, -1 is padding.

    Returns:
        (Q,) float64. Tied non-relevant items count as ranked above.

    Raises:
        ValueError: a wrong shape, or a NaN among the scores.
    """
    return first_relevant_rank(scores, labels).reciprocal()
