"""The order in which metrics see a list, and the checks they share."""

from __future__ import annotations

import torch
from torch import Tensor

from rank_xmodal.losses._input import check_lists


@torch.no_grad()
def ranked_labels(scores: Tensor, labels: Tensor) -> Tensor:
    """Labels from the highest score to the lowest.

    Among equal scores the lower label comes first, so that every tied non-relevant item counts as ranked above a
    relevant one: a scorer that cannot tell items apart gets the worst of their orders, and a constant one does not
    beat chance.

    Parameters
    ----------
    scores : Tensor (Q, L)
    labels : Tensor (Q, L)
        Above 0 is relevant, -1 (any negative number) is padding, whose score is ignored.

    Returns
    -------
    Tensor (Q, L), float64
        Padding last, as 0.

    Raises
    ------
    ValueError
        No tensors, a wrong shape or dtype, a label that can't be one, or a NaN among the scores.
    """
    check_lists(scores, labels)
    valid = labels >= 0
    broken = scores.isnan() & valid
    if broken.any():
        query = int(broken.any(dim=1).nonzero()[0])
        raise ValueError(f"scores has NaN in {int(broken.sum())} places, first in query {query}: NaN has no rank")
    keys = labels.double().masked_fill(~valid, torch.inf)
    by_label = keys.sort(dim=1, stable=True)
    by_score = scores.masked_fill(~valid, -torch.inf).gather(1, by_label.indices)
    order = by_score.argsort(dim=1, descending=True, stable=True)
    ranked = by_label.values.gather(1, order)
    return ranked.masked_fill(ranked.isinf(), 0.0)


def check_k(k: int) -> None:
    """Raise ValueError unless `k` is an integer of at least 1."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k is {k!r}: pass an integer of at least 1")


def count_relevant(ranked: Tensor, n_relevant: Tensor | None) -> Tensor:
    """Return the number of relevant items per query, (Q,) float64: `n_relevant`, or those in the list.

    Raises
    ------
    ValueError
        `n_relevant` is no tensor, has another shape, is not finite, or is below the number of relevant items that the
        list holds.
    """
    listed = (ranked > 0).sum(dim=1).double()
    if n_relevant is None:
        return listed
    if not isinstance(n_relevant, Tensor):
        raise ValueError(f"n_relevant is of type {type(n_relevant).__name__}: pass a torch tensor of counts, or None")
    if n_relevant.shape != listed.shape:
        raise ValueError(f"n_relevant has shape {tuple(n_relevant.shape)}: pass one count per query, {len(listed)}")
    total = n_relevant.to(listed)
    wrong = ((total < listed) | ~total.isfinite()).nonzero()
    if len(wrong):
        query = int(wrong[0])
        raise ValueError(
            f"n_relevant is {float(total[query]):g} for query {query}, whose list holds {int(listed[query])} relevant "
            "items: pass the count over the whole gallery"
        )
    return total
