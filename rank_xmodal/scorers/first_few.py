"""Scoring the first few candidates of each list alone: what costs a second a pair can't score fifty."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rank_xmodal.lists.list_batch import ListBatch


def first_few(batch: ListBatch, top: int) -> list[list[int]]:
    """Return the places of each list's `top` candidates by the first stage, best first; fewer in a shorter list."""
    counts = batch.mask.sum(dim=1).tolist()
    return [
        places[: min(top, count)] for places, count in zip(_order(batch)[:, :top].tolist(), counts, strict=True)
    ]  # fmt: skip


def above_the_rest(batch: ListBatch, scores: Sequence[Sequence[float] | None]) -> torch.Tensor:
    """Return the scores of whole lists, (B, L) float32 on the batch's device.

    Parameters
    ----------
    batch : ListBatch
    scores : sequence of B
        Of each list's first few, in the order of `first_few`: these scores stay as they are, and the others of the
        list come below them in the first stage's order. None for a list that keeps the first stage's order and scores.
    """
    order, found = _order(batch).cpu(), batch.cosine.float().cpu().clone()
    for row, own in enumerate(scores):
        if own is None or not len(own):
            continue
        count = len(own)
        found[row, order[row, :count]] = torch.tensor(own, dtype=torch.float32)
        # A step down for each place: cosines themselves could tie, beside scores of another size.
        lowest = min(own)
        step = max(1.0, 1e-6 * abs(lowest))  # float32 keeps it apart
        found[row, order[row, count:]] = lowest - step * torch.arange(1, order.shape[1] - count + 1)
    return found.to(batch.cosine.device)


def _order(batch: ListBatch) -> torch.Tensor:
    """Return the places of each list, best first, padding last, (B, L) int64."""
    shown = batch.cosine.masked_fill(~batch.mask, -torch.inf)
    return shown.sort(dim=1, descending=True, stable=True).indices
