"""What every loss does to its input and to its output: check, mask, reduce."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["mean", "none"]


def prepare(scores: Tensor, labels: Tensor, reduction: str, *, padding: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Check the input and mask its padding.

    Parameters
    ----------
    scores : Tensor (B, L)
        Floating point.
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
        A wrong shape or dtype, no items, a label that can't be one or an unknown reduction.
    """
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction is {reduction!r}: pass 'mean' (over informative lists) or 'none' (one per list)")
    if scores.dim() != 2 or scores.shape[1] == 0:
        raise ValueError(f"scores has shape {tuple(scores.shape)}: pass (lists, items per list) with at least one item")
    if labels.shape != scores.shape:
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}, scores {tuple(scores.shape)}: pass one label per score, "
            "-1 where a list is padded"
        )
    if not scores.is_floating_point():
        raise ValueError(f"scores has dtype {scores.dtype}: pass floating point scores, e.g. scores.float()")
    _check_labels(labels)
    dtype = torch.promote_types(scores.dtype, torch.float32)
    valid = labels >= 0
    return (
        torch.where(valid, scores.to(dtype), padding),
        torch.where(valid, labels.to(dtype), -1.0),
        valid,
    )


def _check_labels(labels: Tensor) -> None:
    """Raise ValueError for labels that would be taken for something else; signed integers, as in lists, can't be wrong.

    The check waits for the device, so only the dtypes that need it pay for it.
    """
    if labels.is_floating_point() and not bool((labels < torch.inf).all()):
        raise ValueError("labels holds NaN or infinity: pass grades of at least 0, and -1 where a list is padded")
    if labels.dtype == torch.uint8 and bool((labels == 255).any()):
        raise ValueError(
            "labels holds 255 in uint8, which is what becomes of -1, the padding: pass a signed dtype, e.g. int8"
        )


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
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} is {value!r}: pass a finite number above 0, e.g. 1.0")


def check_count(name: str, value: int | None) -> None:
    """Raise ValueError unless `value` is an integer of at least 1, or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{name} is {value!r}: pass an integer of at least 1, or None for the whole list")
