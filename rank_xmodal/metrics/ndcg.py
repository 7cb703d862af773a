"""Normalised discounted cumulative gain at k."""

from __future__ import annotations

import torch
from torch import Tensor

from rank_xmodal.metrics._ranking import check_k, count_relevant, ranked_labels


def ndcg(scores: Tensor, labels: Tensor, k: int, n_relevant: Tensor | None = None) -> Tensor:
    r"""NDCG@k with gains 2^label - 1; 0 where no item is relevant.

    .. math:: \frac{1}{\mathrm{IDCG@}k} \sum_{r \le k} \frac{2^{y_r} - 1}{\log_2(1 + r)}

    Parameters
    ----------
    scores : Tensor (Q, L)
    labels : Tensor (Q, L)
        Above 0 is relevant, -1 is padding.
    k : int
        At least 1.
    n_relevant : Tensor (Q,), optional
        Relevant items of each query in the whole gallery, where the lists are only its top. The ideal order then also
        holds the missing ones, with label 1. By default the ideal is that of the list.

    Returns
    -------
    Tensor (Q,), float64
        Tied items with a lower label count as ranked above.

    Raises
    ------
    ValueError
        A wrong type, shape, label or k, a NaN among the scores, or n_relevant below what a list holds.

    References
    ----------
    Järvelin and Kekäläinen, Cumulated Gain-Based Evaluation of IR Techniques, TOIS 2002, doi:10.1145/582415.582418; the
    gain is that of Burges et al., ICML 2005.

    Examples
    --------
    >>> import torch
    >>> scores, labels = torch.tensor([[3.0, 2.0, 1.0]] * 2), torch.tensor([[1, 0, 1], [0, 0, 1]])
    >>> ndcg(scores, labels, k=3)
    tensor([0.9197, 0.5000], dtype=torch.float64)
    """
    check_k(k)
    ranked = ranked_labels(scores, labels)
    missing = count_relevant(ranked, n_relevant) - (ranked > 0).sum(dim=1)
    gains = torch.exp2(ranked) - 1
    # At most k of the missing items can stand in the ideal top k, and a k of millions costs nothing without them.
    most = int(missing.max()) if len(missing) else 0
    places = torch.arange(min(k, most), device=ranked.device)
    everything = torch.cat([gains, (places < missing[:, None]).double()], dim=1)
    ideal = _dcg(everything.sort(dim=1, descending=True).values, k)
    return torch.where(ideal > 0, _dcg(gains, k) / torch.where(ideal > 0, ideal, 1.0), 0.0)


def _dcg(gains: Tensor, k: int) -> Tensor:
    top = gains[:, :k]
    ranks = torch.arange(1, top.shape[1] + 1, dtype=gains.dtype, device=gains.device)
    return (top / torch.log2(1 + ranks)).sum(dim=1)
