"""Rank of the first relevant item."""

from __future__ import annotations

import torch
from torch import Tensor

from rank_xmodal.metrics._ranking import ranked_labels


def first_relevant_rank(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the 1-based rank of the first relevant item of each query.

    Parameters
    ----------
    scores : Tensor (Q, L)
    labels : Tensor (Q, L)
        Above 0 is relevant, -1 is padding.

    Returns
    -------
    Tensor (Q,), float64
        Infinity where no item is relevant. Tied non-relevant items count as ranked above.

    Raises
    ------
    ValueError
        A wrong type, shape or label, or a NaN among the scores.

    Examples
    --------
    >>> import torch
    >>> first_relevant_rank(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[0, 1, 0]]))
    tensor([2.], dtype=torch.float64)
    """
    ranked = ranked_labels(scores, labels)
    ranks = torch.arange(1, ranked.shape[1] + 1, dtype=torch.float64, device=ranked.device)
    return torch.where(ranked > 0, ranks, torch.inf).amin(dim=1)
