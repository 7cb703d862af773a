"""Recall at k in the sense of information retrieval."""

from __future__ import annotations

import torch
from torch import Tensor

from rank_xmodal.metrics._ranking import check_k, count_relevant, ranked_labels


def recall(scores: Tensor, labels: Tensor, k: int, n_relevant: Tensor | None = None) -> Tensor:
    """Relevant items in the top k over all relevant items; 0 where there are none.

    Not the R@K of image-text retrieval: that is `hit_rate`.

    Parameters
    ----------
    scores : Tensor (Q, L)
    labels : Tensor (Q, L)
        Above 0 is relevant, -1 is padding.
    k : int
        At least 1.
    n_relevant : Tensor (Q,), optional
        Relevant items of each query in the whole gallery, where the lists are only its top. By default those in the
        list.

    Returns
    -------
    Tensor (Q,), float64
        Tied non-relevant items count as ranked above.

    Raises
    ------
    ValueError
        A wrong type, shape, label or k, a NaN among the scores, or n_relevant below what a list holds.

    Examples
    --------
    >>> import torch
    >>> scores, labels = torch.tensor([[3.0, 2.0, 1.0]] * 2), torch.tensor([[1, 0, 1], [0, 0, 1]])
    >>> recall(scores, labels, k=1)
    tensor([0.5000, 0.0000], dtype=torch.float64)
    """
    check_k(k)
    ranked = ranked_labels(scores, labels)
    total = count_relevant(ranked, n_relevant)
    found = (ranked[:, :k] > 0).sum(dim=1)
    return torch.where(total > 0, found / total.clamp(min=1), 0.0)
