"""ListMLE: the likelihood of the right order under the Plackett-Luce model."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rank_xmodal.losses._lists import Reduction, prepare, reduce


def listmle(scores: Tensor, labels: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    r"""ListMLE in which items of equal label do not compete.

    .. math:: -\sum_i \log \frac{e^{s_i}}{e^{s_i} + \sum_{y_j < y_i} e^{s_j}}

    When all labels differ, this is ListMLE: the product of the probabilities of drawing each item before all lower
    ones. The original breaks equal labels by an order of its own, such as the one of storage, and so teaches noise:
    with one relevant item in 51 most of its terms order the non-relevant ones. Here the factor of an item is the
    Plackett-Luce probability that it comes before every item of a lower label, whatever becomes of its equals. The
    items of the lowest label add nothing, and the storage order does not matter.

    The product is at most the probability that the labels come in a falling order, summed over all orders of equals
    (the events are positively correlated), so the loss bounds the exact -log likelihood from above, and equals it when
    only the lowest label is shared. On binary labels it is the softmax loss times the number of relevant items.

    Parameters
    ----------
    scores : Tensor (B, L)
        Floating point; at least float32 is used inside.
    labels : Tensor (B, L)
        Any dtype, binary or graded; -1 is padding.
    reduction : {"mean", "none"}
        "mean" over the lists with two different labels, or "none" for (B,) with 0 for the other lists.

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
    Xia et al., Listwise Approach to Learning to Rank: Theory and Algorithm, ICML 2008, doi:10.1145/1390156.1390306.

    Examples
    --------
    51 equal scores, one relevant item: ln 51.

    >>> import torch
    >>> listmle(torch.zeros(1, 51), torch.eye(51)[:1])
    tensor(3.9318)
    """
    scores, labels, valid = prepare(scores, labels, reduction)
    lower = (labels[:, None, :] < labels[:, :, None]) & valid[:, None, :]
    has_lower = lower.any(dim=2)
    # Finite, so that an item without lower ones has a log-sum with a gradient, of 0, instead of NaN.
    rivals = scores[:, None, :].masked_fill(~lower, -1e30).logsumexp(dim=2)
    per_item = torch.where(has_lower, -logsigmoid(scores - rivals), 0.0)
    return reduce(per_item.sum(dim=1), has_lower.any(dim=1), reduction)
