"""What scores and labels must be before anything is computed of them: the check that losses and metrics share."""

from __future__ import annotations

import torch
from torch import Tensor


def check_lists(scores: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless these are floating point scores and labels of the same shape, (lists, items per list).

    Labels may have any real dtype; NaN, infinity and a padding that wrapped around in uint8 are refused.
    NaN among the scores is not looked for: it is allowed at padding.
    """
    for name, value in (("scores", scores), ("labels", labels)):
        if not isinstance(value, Tensor):
            found = "None" if value is None else f"of type {type(value).__name__}"
            raise ValueError(f"{name} is {found}: pass a torch tensor, e.g. torch.as_tensor({name})")
    if scores.dim() != 2 or scores.shape[1] == 0:
        raise ValueError(f"scores has shape {tuple(scores.shape)}: pass (lists, items per list) with at least one item")
    if labels.shape != scores.shape:
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}, scores {tuple(scores.shape)}: pass one label per score, "
            "-1 where a list is padded"
        )
    if not scores.is_floating_point():
        raise ValueError(f"scores has dtype {scores.dtype}: pass floating point scores, e.g. scores.float()")
    if labels.is_complex():
        raise ValueError(f"labels has dtype {labels.dtype}: pass real numbers, e.g. labels.real")
    if labels.device != scores.device:
        raise ValueError(f"labels is on {labels.device}, scores on {scores.device}: pass labels.to(scores.device)")
    _check_labels(labels)


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
