"""RankNet: logistic loss on every pair of unequal labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rank_xmodal.losses._lists import Reduction, check_positive, prepare, reduce
from rank_xmodal.losses._pairs import preferred_pairs


def ranknet(scores: Tensor, labels: Tensor, *, sigma: float = 1.0, reduction: Reduction = "mean") -> Tensor:
    r"""RankNet, averaged over the pairs of each list.

    .. math:: \frac{1}{|\{y_i > y_j\}|} \sum_{y_i > y_j} \log(1 + e^{-\sigma (s_i - s_j)})

    Parameters
    ----------
    scores : Tensor (B, L)
        Floating point; at least float32 is used inside.
    labels : Tensor (B, L)
        Any dtype, binary or graded; -1 is padding.
    sigma : float
        Steepness, above 0.
    reduction : {"mean", "none"}
        "mean" over the lists with two different labels, or "none" for (B,) with 0 for the other lists.

    Returns
    -------
    Tensor
        A scalar, or (B,).

    Raises
    ------
    ValueError
        A wrong shape, dtype, score, label, sigma or reduction.

    References
    ----------
    Burges et al., Learning to Rank using Gradient Descent, ICML 2005, doi:10.1145/1102351.1102363.

    Examples
    --------
    51 equal scores, one relevant item: ln 2.

    >>> import torch
    >>> ranknet(torch.zeros(1, 51), torch.eye(51)[:1])
    tensor(0.6931)
    """
    check_positive("sigma", sigma)
    scores, labels, valid = prepare(scores, labels, reduction)
    pairs = preferred_pairs(scores, labels, valid)
    per_pair = torch.where(pairs.mask, -logsigmoid(sigma * pairs.difference), 0.0)
    count = pairs.mask.sum(dim=(1, 2))
    return reduce(per_pair.sum(dim=(1, 2)) / count.clamp(min=1), count > 0, reduction)
