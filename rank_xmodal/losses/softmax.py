"""Softmax cross-entropy of each relevant item against the non-relevant ones: InfoNCE for lists."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rank_xmodal.losses._lists import Reduction, check_positive, prepare, reduce


def softmax(scores: Tensor, labels: Tensor, *, temperature: float = 1.0, reduction: Reduction = "mean") -> Tensor:
    r"""Softmax cross-entropy, averaged over the relevant items R of each list.

    .. math:: -\frac{1}{|R|} \sum_{i \in R} \log \frac{e^{s_i / T}}{e^{s_i / T} + \sum_{j \notin R} e^{s_j / T}}

    In listnet all items share one softmax, so that relevant items compete: its minimum wants them at equal scores and
    holds the best of them back until the others have come up. Here a relevant item meets only itself and the
    non-relevant items, and the loss falls to 0 once all of R is far above the rest. With one relevant item in the list
    the two are the same. listnet also weights by grade; here any label above 0 is relevant.

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
        A scalar, or (B,).

    Raises
    ------
    ValueError
        A wrong shape, dtype, score, label, temperature or reduction.

    References
    ----------
    van den Oord, Li and Vinyals, Representation Learning with Contrastive Predictive Coding, 2018, arXiv:1807.03748.

    Examples
    --------
    51 equal scores, one relevant item: ln 51.

    >>> import torch
    >>> softmax(torch.zeros(1, 51), torch.eye(51)[:1])
    tensor(3.9318)
    """
    check_positive("temperature", temperature)
    scores, labels, valid = prepare(scores, labels, reduction)
    relevant = labels > 0
    other = valid & ~relevant
    logits = scores / temperature
    # Finite, so that a list without rivals has a log-sum with a gradient, of 0, instead of NaN.
    rivals = logits.masked_fill(~other, -1e30).logsumexp(dim=1, keepdim=True)
    per_item = torch.where(relevant, -logsigmoid(logits - rivals), 0.0)
    mean = per_item.sum(dim=1) / relevant.sum(dim=1).clamp(min=1)
    return reduce(mean, relevant.any(dim=1) & other.any(dim=1), reduction)
