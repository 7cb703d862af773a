"""Pairwise hinge: every pair of unequal labels is to be a margin apart."""

from __future__ import annotations

import torch
from torch import Tensor

from rank_xmodal.losses._lists import Reduction, check_positive, prepare, reduce
from rank_xmodal.losses._pairs import preferred_pairs


def hinge(scores: Tensor, labels: Tensor, *, margin: float = 1.0, reduction: Reduction = "mean") -> Tensor:
    r"""The ranking SVM's hinge loss, averaged over the pairs of each list.

    .. math:: \frac{1}{|\{y_i > y_j\}|} \sum_{y_i > y_j} \max(0, m - (s_i - s_j))

    Pairs further apart than the margin have no gradient; they stay in the average.

    Args:
        scores: (B, L), floating point; at least float32 is used inside.
        labels: (B, L), any dtype, binary or graded; -1 is padding.
        margin: m, above 0.
        reduction: "mean" over the lists with two different labels, or "none" for (B,) with 0 for the other lists.

    Returns:
        A scalar, or (B,).

    Raises:
        ValueError: a wrong shape, dtype, label, margin or reduction.

    Paper: Joachims, Optimizing Search Engines using Clickthrough Data, KDD 2002, doi:10.1145/775047.775067.
    """
    check_positive("margin", margin)
    scores, labels, valid = prepare(scores, labels, reduction)
    pairs = preferred_pairs(scores, labels, valid)
    per_pair = torch.where(pairs.mask, torch.relu(margin - pairs.difference), 0.0)
    count = pairs.mask.sum(dim=(1, 2))
    return reduce(per_pair.sum(dim=(1, 2)) / count.clamp(min=1), count > 0, reduction)
