"""Gains, discounts, ranks and the ideal DCG, shared by the losses that follow NDCG."""

from __future__ import annotations

import torch
from torch import Tensor


def gains(labels: Tensor) -> Tensor:
    """2^label - 1 over 2^(highest label of the list); 0 at padding. Takes and returns (B, L).

    NDCG doesn't feel a factor of a whole list, a power of two costs no precision, and float32 would overflow: three
    items of grade 127, which a list may hold, have an infinite DCG.
    """
    labels = labels.clamp(min=0)
    highest = labels.amax(dim=1, keepdim=True)
    return torch.exp2(labels - highest) - torch.exp2(-highest)


def discounts(length: int, k: int | None, like: Tensor) -> Tensor:
    """1 / log2(1 + rank) for rank 1 to `length`, 0 below rank k. Returns (L,) in the dtype and device of `like`."""
    ranks = torch.arange(1, length + 1, dtype=like.dtype, device=like.device)
    return torch.where(ranks <= min(k or length, length), torch.log2(1 + ranks).reciprocal(), 0.0)


def ideal_dcg(gain: Tensor, discount: Tensor) -> Tensor:
    """DCG of the best order. Takes (B, L) and (L,), returns (B,)."""
    return (gain.sort(dim=1, descending=True).values * discount).sum(dim=1)


def ranks(scores: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Rank of each item, from 0 for the highest score; among equal scores the lower label stands higher, padding last.

    Takes prepared scores, labels and valid, (B, L) each, returns (B, L) int64, without a gradient.
    """
    by_label = labels.masked_fill(~valid, torch.inf).argsort(dim=1, stable=True)
    sorted_by_label = scores.detach().masked_fill(~valid, -torch.inf).gather(1, by_label)
    order = by_label.gather(1, sorted_by_label.argsort(dim=1, descending=True, stable=True))
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)
