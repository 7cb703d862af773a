"""Smooth-AP: average precision with every rank replaced by a smooth count of the items above."""

from __future__ import annotations

import torch
from torch import Tensor

from rank_xmodal.losses._lists import Reduction, check_positive, prepare, reduce


def smoothap(scores: Tensor, labels: Tensor, *, temperature: float = 1.0, reduction: Reduction = "mean") -> Tensor:
    r"""Smooth-AP as 1 minus the approximate average precision over the relevant items R.

    .. math:: 1 - \frac{1}{|R|} \sum_{i \in R} \frac{1 + \sum_{j \in R, j \ne i} \sigma_{ji}}{1 + \sum_{j \ne i}
              \sigma_{ji}}, \quad \sigma_{ji} = \frac{1}{1 + e^{-(s_j - s_i) / T}}

    The loss tends to 1 - AP as T falls or the scores spread out. The gradient then tends to zero, for a badly ranked
    positive as for a well ranked one: keep the spread of the scores within a few T. The paper's 0.01 is meant for
    cosines; scores of a ranker have no such bound. An item counts as half above another with the same score, so the
    order in which a list is stored does not matter.

    Parameters
    ----------
    scores : Tensor (B, L)
        Floating point; at least float32 is used inside.
    labels : Tensor (B, L)
        Any dtype; above 0 is relevant, -1 is padding.
    temperature : float
        T, above 0.
    reduction : {"mean", "none"}
        "mean" over the lists with a relevant and a non-relevant item, or "none" for (B,) with 0 for the other lists.

    Returns
    -------
    Tensor
        A scalar, or (B,), between 0 and 1.

    Raises
    ------
    ValueError
        A wrong shape, dtype, score, label, temperature or reduction.

    References
    ----------
    Brown et al., Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval, ECCV 2020, arXiv:2007.12163.

    Examples
    --------
    51 equal scores, one relevant item: rank 26, 1 - 1 / 26.

    >>> import torch
    >>> smoothap(torch.zeros(1, 51), torch.eye(51)[:1])
    tensor(0.9615)
    """
    check_positive("temperature", temperature)
    scores, labels, valid = prepare(scores, labels, reduction)
    relevant = labels > 0
    above = torch.sigmoid((scores[:, None, :] - scores[:, :, None]) / temperature)
    # The item itself is among the items j and adds 1/2, a constant: the other half makes its own rank 1.
    rank = 0.5 + torch.where(valid[:, None, :], above, 0.0).sum(dim=2)
    rank_in_relevant = 0.5 + torch.where(relevant[:, None, :], above, 0.0).sum(dim=2)
    precision = torch.where(relevant, rank_in_relevant / rank, 0.0).sum(dim=1) / relevant.sum(dim=1).clamp(min=1)
    return reduce(1 - precision, relevant.any(dim=1) & (valid & ~relevant).any(dim=1), reduction)
