"""ListNet: cross-entropy between the top-one probabilities of the labels and of the scores."""

from __future__ import annotations

import torch
from torch import Tensor

from rank_xmodal.losses._lists import Reduction, check_positive, prepare, reduce


def listnet(scores: Tensor, labels: Tensor, *, temperature: float = 1.0, reduction: Reduction = "mean") -> Tensor:
    r"""ListNet with targets that are zero for non-relevant items.

    .. math:: -\sum_i \frac{y_i}{\sum_j y_j} \log \mathrm{softmax}(s / T)_i

    The original puts a softmax over the labels too. With labels 0 and 1 that asks for a score gap of exactly 1 and
    pushes a positive that is further ahead back down, so here the target is labels / sum(labels).

    Parameters
    ----------
    scores : Tensor (B, L)
        Floating point; at least float32 is used inside.
    labels : Tensor (B, L)
        Any dtype, binary or graded; -1 is padding.
    temperature : float
        T, above 0.
    reduction : {"mean", "none"}
        "mean" over the lists with a relevant item, or "none" for (B,) with 0 for the other lists.

    Returns
    -------
    Tensor
        A scalar, or (B,).

    Raises
    ------
    ValueError
        A wrong shape, dtype, score, label, temperature or reduction.

    References
    ----------
    Cao et al., Learning to Rank: From Pairwise Approach to Listwise Approach, ICML 2007, doi:10.1145/1273496.1273513.

    Examples
    --------
    51 equal scores, one relevant item: ln 51.

    >>> import torch
    >>> listnet(torch.zeros(1, 51), torch.eye(51)[:1])
    tensor(3.9318)
    """
    check_positive("temperature", temperature)
    # Finite, so that 0 times the log-probability of padding is 0; its probability is exactly 0 all the same.
    scores, labels, _ = prepare(scores, labels, reduction, padding=-1e30 * min(temperature, 1.0))
    relevance = labels.clamp(min=0)
    total = relevance.sum(dim=1, keepdim=True)
    informative = total > 0
    # Everything that has no gradient comes first: on lists of this size each further step backwards counts.
    weight = relevance / torch.where(informative, -total, 1.0)
    log_probability = torch.log_softmax(scores if temperature == 1 else scores / temperature, dim=1)
    return reduce((weight * log_probability).sum(dim=1), informative[:, 0], reduction)
