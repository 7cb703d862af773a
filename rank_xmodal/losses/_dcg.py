"""Gains, discounts and the ideal DCG, shared by the losses that follow NDCG."""

from __future__ import annotations

import torch
from torch import Tensor


def gains(labels: Tensor) -> Tensor:
    """2^label - 1; 0 at padding. Takes and returns (B, L)."""
    return torch.exp2(labels.clamp(min=0)) - 1


def discounts(length: int, k: int | None, like: Tensor) -> Tensor:
    """1 / log2(1 + rank) for rank 1 to `length`, 0 below rank k. Returns (L,) in the dtype and device of `like`."""
    ranks = torch.arange(1, length + 1, dtype=like.dtype, device=like.device)
    return torch.where(ranks <= (k or length), torch.log2(1 + ranks).reciprocal(), 0.0)


def ideal_dcg(gain: Tensor, discount: Tensor) -> Tensor:
    """DCG of the best order. Takes (B, L) and (L,), returns (B,)."""
    return (gain.sort(dim=1, descending=True).values * discount).sum(dim=1)
