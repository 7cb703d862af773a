"""ApproxNDCG: NDCG with every rank replaced by a smooth count of the items above."""

from __future__ import annotations

import torch
from torch import Tensor

from rank_xmodal.losses._dcg import discounts, gains, ideal_dcg
from rank_xmodal.losses._lists import Reduction, above_lowest, check_positive, prepare, reduce


def approxndcg(scores: Tensor, labels: Tensor, *, alpha: float = 1.0, reduction: Reduction = "mean") -> Tensor:
    r"""ApproxNDCG as minus the approximate NDCG.

    .. math:: -\frac{1}{\mathrm{IDCG}} \sum_i \frac{2^{y_i} - 1}{\log_2(1 + \hat r_i)}, \quad
              \hat r_i = 1 + \sum_{j \ne i} \frac{1}{1 + e^{-\alpha (s_j - s_i)}}

    The loss tends to minus NDCG as alpha grows or the scores spread out. The gradient then tends to zero, for a badly
    ranked positive as for a well ranked one: keep the spread of the scores within a few 1 / alpha. An item counts as
    half above another with the same score, so the order in which a list is stored does not matter.

    Parameters
    ----------
    scores : Tensor (B, L)
        Floating point; at least float32 is used inside.
    labels : Tensor (B, L)
        Any dtype, binary or graded; -1 is padding.
    alpha : float
        Steepness, the inverse of a temperature, above 0; Bruch et al. use 10.
    reduction : {"mean", "none"}
        "mean" over the lists with two different labels, or "none" for (B,) with 0 for the other lists.

    Returns
    -------
    Tensor
        A scalar, or (B,), between -1 and 0.

    Raises
    ------
    ValueError
        A wrong shape, dtype, score, label, alpha or reduction.

    References
    ----------
    Qin, Liu and Li, A General Approximation Framework for Direct Optimization of Information Retrieval Measures,
    Information Retrieval 13, 2010, doi:10.1007/s10791-009-9124-x; with neural networks, Bruch et al., Revisiting
    Approximate Metric Optimization in the Age of Deep Neural Networks, SIGIR 2019, doi:10.1145/3331184.3331347.

    Examples
    --------
    51 equal scores, one relevant item: rank 26, -1 / log2(27).

    >>> import torch
    >>> approxndcg(torch.zeros(1, 51), torch.eye(51)[:1])
    tensor(-0.2103)
    """
    check_positive("alpha", alpha)
    scores, labels, valid = prepare(scores, labels, reduction)
    gain = gains(labels)
    ideal = ideal_dcg(gain, discounts(scores.shape[1], None, like=scores))
    informative = above_lowest(labels, valid).any(dim=1)

    above = torch.sigmoid(alpha * (scores[:, None, :] - scores[:, :, None]))
    # The item itself is among the items j and adds 1/2, a constant: the other half makes its own rank 1.
    rank = 0.5 + torch.where(valid[:, None, :], above, 0.0).sum(dim=2)
    # The rank of padding means nothing, but its gain is 0.
    dcg = (gain / torch.log2(1 + rank)).sum(dim=1)
    return reduce(-dcg / torch.where(informative, ideal, 1.0), informative, reduction)
