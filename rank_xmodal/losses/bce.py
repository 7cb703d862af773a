"""Binary cross-entropy: every item on its own, as relevant or not."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rank_xmodal.losses._lists import Reduction, prepare, reduce


def bce(scores: Tensor, labels: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    r"""Logistic loss of each item, averaged over the n items of each list.

    .. math:: -\frac{1}{n} \left( \sum_{y_i > 0} \log \sigma(s_i) + \sum_{y_i = 0} \log(1 - \sigma(s_i)) \right)

    The pointwise baseline: the only loss here that adding a number to all scores of a list changes, so it also learns
    the level of the scores. Lists with only relevant or only non-relevant items would teach that level alone and are
    left out, as everywhere here.

    Parameters
    ----------
    scores : Tensor (B, L)
        Floating point; at least float32 is used inside.
    labels : Tensor (B, L)
        Any dtype; above 0 is relevant, -1 is padding.
    reduction : {"mean", "none"}
        "mean" over the lists with a relevant and a non-relevant item, or "none" for (B,) with 0 for the other lists.

    Returns
    -------
    Tensor
        A scalar, or (B,).

    Raises
    ------
    ValueError
        A wrong shape, dtype, score, label or reduction.

    References
    ----------
    Nallapati, Discriminative Models for Information Retrieval, SIGIR 2004; in a survey of pointwise losses, Liu,
    Learning to Rank for Information Retrieval, Foundations and Trends in IR, 2009, doi:10.1561/1500000016.

    Examples
    --------
    51 equal scores, one relevant item: ln 2.

    >>> import torch
    >>> bce(torch.zeros(1, 51), torch.eye(51)[:1])
    tensor(0.6931)
    """
    scores, labels, valid = prepare(scores, labels, reduction)
    relevant = labels > 0
    per_item = torch.where(valid, -logsigmoid(torch.where(relevant, scores, -scores)), 0.0)
    mean = per_item.sum(dim=1) / valid.sum(dim=1).clamp(min=1)
    return reduce(mean, relevant.any(dim=1) & (valid & ~relevant).any(dim=1), reduction)
