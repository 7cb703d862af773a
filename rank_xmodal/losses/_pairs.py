"""The pairs (i, j) of a list with label_i > label_j, shared by the pairwise losses."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from rank_xmodal.losses._lists import above_lowest


class Pairs(NamedTuple):
    """Score differences of all pairs that a pairwise loss may use.

    Only an item above the lowest label of its list can be the preferred one of a pair, so the tensors are (B, P, L)
    with P = the largest number of such items in the batch: 1 to 7 of 51 in retrieval, not 51.
    """

    preferred: Tensor
    """(B, P) int64: places of the candidates for i."""
    difference: Tensor
    """(B, P, L): score_i - score_j."""
    mask: Tensor
    """(B, P, L) bool: label_i > label_j and neither is padding."""


def preferred_pairs(scores: Tensor, labels: Tensor, valid: Tensor) -> Pairs:
    """Gather the pairs of prepared (masked) scores and labels, each (B, L)."""
    above = above_lowest(labels, valid).sum(dim=1)
    # One number read from the device per call; at least 1, so that an uninformative batch stays in the graph.
    width = max(1, int(above.max())) if len(above) else 1
    top = labels.topk(width, dim=1)
    difference = scores.gather(1, top.indices)[:, :, None] - scores[:, None, :]
    mask = (top.values[:, :, None] > labels[:, None, :]) & valid[:, None, :]
    return Pairs(top.indices, difference, mask)


def distance(values: Tensor, preferred: Tensor) -> Tensor:
    """|value_i - value_j| for the pairs: (B, L) and (B, P) to (B, P, L)."""
    return (values.gather(1, preferred)[:, :, None] - values[:, None, :]).abs()
