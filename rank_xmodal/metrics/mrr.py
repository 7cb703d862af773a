"""Reciprocal rank."""

from __future__ import annotations

from torch import Tensor

from rank_xmodal.metrics.first_relevant_rank import first_relevant_rank


def mrr(scores: Tensor, labels: Tensor) -> Tensor:
    """1 / rank of the first relevant item, 0 where no item is relevant; the mean over queries is MRR.

    Parameters
    ----------
    scores : Tensor (Q, L)
    labels : Tensor (Q, L)
        Above 0 is relevant, -1 is padding.

    Returns
    -------
    Tensor (Q,), float64
        Tied non-relevant items count as ranked above.

    Raises
    ------
    ValueError
        A wrong type, shape or label, or a NaN among the scores.

    Examples
    --------
    >>> import torch
    >>> scores, labels = torch.tensor([[3.0, 2.0, 1.0]] * 2), torch.tensor([[1, 0, 1], [0, 0, 1]])
    >>> mrr(scores, labels)
    tensor([1.0000, 0.3333], dtype=torch.float64)
    """
    return first_relevant_rank(scores, labels).reciprocal()
