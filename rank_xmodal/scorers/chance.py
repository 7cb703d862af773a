"""Random order: what any scorer must beat, and all that can be had without training where sides share no space."""

from __future__ import annotations

import torch

from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.scorers.base import Scorer

_LOW = 2**35 - 1
_ODD = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)  # multipliers of SplitMix64 and xxHash


class Chance(Scorer):
    """``score = uniform(seed, query, candidate)``: every pair has its number, in whichever list it stands."""

    name = "chance"
    label = "random order"
    paper = "no paper: an order drawn by the seed"
    takes_unaligned = True

    def score(self, batch: ListBatch) -> torch.Tensor:
        """Return numbers from 0 to 1, (B, L) float32."""
        assert batch.query_row is not None
        assert batch.rows is not None
        return self.numbers(batch.query_row, batch.rows)

    def numbers(self, queries: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Return the number of each pair by their rows, (B,) and (B, L) or (L,) int64 -> (B, L) float32."""
        value = _mixed(queries[:, None] + (self.settings.seed + 1) * 1_000_003)
        value = _mixed(value ^ candidates)
        return (value >> 40 & 0xFFFFFF).float() / 2**24


def _mixed(value: torch.Tensor) -> torch.Tensor:
    """Return whole numbers, int64, of which every bit hangs on every bit of the given ones."""
    for odd in _ODD:
        value = value * (odd - 2**64 if odd >= 2**63 else odd)
        value = value ^ (value >> 29 & _LOW)  # the shift of a signed number would bring its sign along
    return value
