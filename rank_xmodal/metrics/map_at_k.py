"""Mean average precision at k."""

from __future__ import annotations

import torch
from torch import Tensor

from rank_xmodal.metrics._ranking import check_k, count_relevant, ranked_labels


def map_at_k(scores: Tensor, labels: Tensor, k: int, n_relevant: Tensor | None = None) -> Tensor:
    r"""Average precision over the top k, 0 where no item is relevant; the mean over queries is MAP@k.

    .. math:: \frac{1}{R} \sum_{r \le k,\ y_r > 0} \mathrm{precision@}r

    R counts all relevant items, not at most k of them: a query with more than k of them can't reach 1. So has it
    trec_eval (map_cut); with k the whole list it is what scikit-learn calls average_precision_score.

    Parameters
    ----------
    scores : Tensor (Q, L)
    labels : Tensor (Q, L)
        Above 0 is relevant, whatever the grade, -1 is padding.
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
    >>> map_at_k(scores, labels, k=3)
    tensor([0.8333, 0.3333], dtype=torch.float64)
    """
    check_k(k)
    ranked = ranked_labels(scores, labels)
    total = count_relevant(ranked, n_relevant)
    relevant = (ranked[:, :k] > 0).double()
    ranks = torch.arange(1, relevant.shape[1] + 1, dtype=torch.float64, device=relevant.device)
    precision = relevant.cumsum(dim=1) / ranks
    return torch.where(total > 0, (precision * relevant).sum(dim=1) / total.clamp(min=1), 0.0)
