"""Pairwise hinge: every pair of unequal labels is to be a margin apart."""

from __future__ import annotations

import torch
from torch import Tensor

from rank_xmodal.losses._lists import Reduction, check_positive, prepare, reduce
from rank_xmodal.losses._pairs import preferred_pairs


def hinge(scores: Tensor, labels: Tensor, *, margin: float = 1.0, reduction: Reduction = "mean") -> Tensor:
    r"""Hinge loss of the ranking SVM, averaged over the pairs of each list.

    .. math:: \frac{1}{|\{y_i > y_j\}|} \sum_{y_i > y_j} \max(0, m - (s_i - s_j))

    Pairs further apart than the margin have no gradient; they stay in the average.

    Parameters
    ----------
    scores : Tensor (B, L)
        Floating point; at least float32 is used inside.
    labels : Tensor (B, L)
        Any dtype, binary or graded; -1 is padding.
    margin : float
        m, above 0.
    reduction : {"mean", "none"}
        "mean" over the lists with two different labels, or "none" for (B,) with 0 for the other lists.

    Returns
    -------
    Tensor
        A scalar, or (B,).

    Raises
    ------
    ValueError
        A wrong shape, dtype, score, label, margin or reduction.

    References
    ----------
    Joachims, Optimizing Search Engines using Clickthrough Data, KDD 2002, doi:10.1145/775047.775067.

    Examples
    --------
    51 equal scores, one relevant item: the margin.

    >>> import torch
    >>> hinge(torch.zeros(1, 51), torch.eye(51)[:1])
    tensor(1.)
    """
    check_positive("margin", margin)
    scores, labels, valid = prepare(scores, labels, reduction)
    pairs = preferred_pairs(scores, labels, valid)
    per_pair = torch.where(pairs.mask, torch.relu(margin - pairs.difference), 0.0)
    count = pairs.mask.sum(dim=(1, 2))
    return reduce(per_pair.sum(dim=(1, 2)) / count.clamp(min=1), count > 0, reduction)
