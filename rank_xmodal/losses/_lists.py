"""What every loss does to its input and to its output: check, mask, reduce."""

from __future__ import annotations

import math
import sys
from typing import Literal

import torch
from torch import Tensor

from rank_xmodal.losses._input import check_lists

Reduction = Literal["mean", "none"]


def prepare(scores: Tensor, labels: Tensor, reduction: str, *, padding: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Check the input and mask its padding.

    Parameters
    ----------
    scores : Tensor (B, L)
        Floating point, no NaN but at padding.
    labels : Tensor (B, L)
        Any dtype, finite; -1 (any negative number) marks padding.
    reduction : {"mean", "none"}
    padding : float
        What the scores are at padding.

    Returns
    -------
    scores : Tensor (B, L), float32 or float64
        `padding` at padding. The masking comes before any arithmetic, so whatever a padded score holds, infinities and
        NaN included, neither reaches the loss nor receives a gradient.
    labels : Tensor (B, L), dtype of the scores
        -1 at padding.
    valid : Tensor (B, L), bool
        False at padding.

    Raises
    ------
    ValueError
        No tensors, a wrong shape or dtype, no items, a label that can't be one, NaN or an unknown reduction.
    """
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction is {reduction!r}: pass 'mean' (over informative lists) or 'none' (one per list)")
    check_lists(scores, labels)
    dtype = torch.promote_types(scores.dtype, torch.float32)
    valid = labels >= 0
    scores = torch.where(valid, scores.to(dtype), padding)
    _check_scores(scores)
    return scores, torch.where(valid, labels.to(dtype), -1.0), valid


def _check_scores(scores: Tensor) -> None:
    """Raise ValueError for NaN among masked scores (B, L); an infinite score is only a very high or low one.

    In a list that teaches nothing a NaN would otherwise vanish with the list. On an accelerator a training is not kept
    waiting for the check: there the loss becomes NaN, or the gradient where the list teaches nothing.
    """
    if scores.requires_grad and scores.device.type != "cpu":
        return
    # The sum is the cheapest thing that NaN shows up in; infinities of both signs give one, too.
    if math.isnan(scores.detach().sum().item()) and bool((broken := scores.isnan()).any()):
        first = int(broken.any(dim=1).nonzero()[0])
        raise ValueError(f"scores has NaN in {int(broken.sum())} places, first in list {first}: pass numbers")


def above_lowest(labels: Tensor, valid: Tensor) -> Tensor:
    """Tell which items have a label above the lowest of their list: (B, L), padding -1, and (B, L) to (B, L) bool.

    A list without one has nothing to order.
    """
    return labels > labels.masked_fill(~valid, torch.inf).amin(dim=1, keepdim=True)


def reduce(per_list: Tensor, informative: Tensor, reduction: str) -> Tensor:
    """Average over the lists that carry information, or zero the others.

    The sum is divided by the number of informative lists and not by the batch size: a batch of 32 in which 4 lists can
    teach anything takes the same step as those 4 alone. Without any, the result is a 0 whose gradient is 0.
    """
    per_list = torch.where(informative, per_list, 0.0)
    if reduction == "none":
        return per_list
    return per_list.sum() / informative.sum().clamp(min=1)


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless `value` is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= sys.float_info.max:
        raise ValueError(f"{name} is {value!r}: pass a finite number above 0, e.g. 1.0")


def check_count(name: str, value: int | None) -> None:
    """Raise ValueError unless `value` is an integer of at least 1, or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{name} is {value!r}: pass an integer of at least 1, or None for the whole list")
