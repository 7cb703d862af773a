"""Hit rate at k, the R@K of image-text retrieval."""

from __future__ import annotations

from torch import Tensor

from rank_xmodal.metrics._ranking import check_k
from rank_xmodal.metrics.first_relevant_rank import first_relevant_rank


def hit_rate(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """1 where at least one relevant item stands in the top k, else 0.

    Its mean is what papers on image-text retrieval print as R@K. The share of relevant items found is `recall`.

    Parameters
    ----------
    scores : Tensor (Q, L)
    labels : Tensor (Q, L)
        Above 0 is relevant, -1 is padding.
    k : int
        At least 1.

    Returns
    -------
    Tensor (Q,), float64
        Tied non-relevant items count as ranked above.

    Raises
    ------
    ValueError
        A wrong type, shape, label or k, or a NaN among the scores.

    Examples
    --------
    >>> import torch
    >>> scores, labels = torch.tensor([[3.0, 2.0, 1.0]] * 2), torch.tensor([[1, 0, 1], [0, 0, 1]])
    >>> hit_rate(scores, labels, k=1)
    tensor([1., 0.], dtype=torch.float64)
    """
    check_k(k)
    ranks = first_relevant_rank(scores, labels)
    return (ranks <= min(k, scores.shape[1])).double()
