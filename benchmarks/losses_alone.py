"""The losses alone, forward and backward, on 256 lists of 51: the work of a step that doesn't depend on the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch

from benchmarks.measure import Row, alternate_apart, copy_rate, row
from rank_xmodal import losses
from rank_xmodal.scorers.allrank import allrank_loss

LISTS, LENGTH = 256, 51
_BYTES = LISTS * LENGTH * (4 + 1 + 4)  # scores and labels read, a gradient written
TARGETS = {"ranknet": 15.0, "lambdarank": 8.0, "neuralndcg": 8.0, "listnet": 1.0}


def built(side: Literal["ours", "theirs"], name: str) -> Callable[[], object]:
    """Return a function that takes a loss and its gradient."""
    torch.manual_seed(0)
    loss = losses.get(name) if side == "ours" else allrank_loss(name)
    scores = torch.randn(LISTS, LENGTH)
    labels = torch.zeros(LISTS, LENGTH, dtype=torch.int8)
    labels[:, 0] = 1

    def both_ways() -> None:
        loss(scores.clone().requires_grad_(), labels).backward()

    return both_ways


def rows() -> Iterator[Row]:
    """Compare each loss of the paper."""
    for name, target in TARGETS.items():
        pairs = alternate_apart(
            (built, ("ours", name)), (built, ("theirs", name)), times=10 if name == "neuralndcg" else 100, repeats=7
        )
        yield row(f"loss {name}, {LISTS} x {LENGTH}", "allRank", pairs, target, limit=_BYTES / copy_rate())
