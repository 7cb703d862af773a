"""What scorers by binary codes share: signs are compared, bit by bit."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.scorers.projections.base import Projection
from rank_xmodal.scorers.projections.hash_objectives import signs


class Codes(Projection):
    """``score = sign(f(q)) . sign(g(c)) = bits - 2 Hamming distance``; its first stage compares packed bits."""

    of_codes = True

    def as_query(self, mapped: Tensor) -> Tensor:
        """Return the bits of a mapped query (..., k), +1 and -1."""
        return signs(mapped)

    def as_candidate(self, mapped: Tensor) -> Tensor:
        """Return the bits of a mapped candidate (..., k), +1 and -1."""
        return signs(mapped)

    def project(self, candidates: Tensor) -> Tensor:
        """Return the bits of the candidates, (m, d) of any float -> (m, k) int8, +1 and -1: a quarter of float32."""
        return super().project(candidates).to(torch.int8)

    def score(self, batch: ListBatch) -> Tensor:
        """Return the inner products of the bits, (B, L) float32; see `Projection.score`."""
        known = batch.projected
        return super().score(batch if known is None else replace(batch, projected=known.float()))
