"""The losses alone, forward and backward, on 256 lists of 51: the work of a step that doesn't depend on the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from benchmarks.measure import Row, alternate, row
from rank_xmodal import losses
from rank_xmodal.allrank_ranker import allrank_loss

LISTS, LENGTH = 256, 51
TARGETS = {"ranknet": 15.0, "lambdarank": 8.0, "neuralndcg": 8.0, "listnet": 1.0}


def rows() -> Iterator[Row]:
    """Compare each loss of the paper."""
    torch.manual_seed(0)
    scores = torch.randn(LISTS, LENGTH)
    labels = torch.zeros(LISTS, LENGTH, dtype=torch.int8)
    labels[:, 0] = 1
    for name, target in TARGETS.items():
        pairs = alternate(
            _both_ways(losses.get(name), scores, labels), _both_ways(allrank_loss(name), scores, labels), times=5
        )
        yield row(f"loss {name}, {LISTS} x {LENGTH}", "allRank", pairs, target)


def _both_ways(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], scores: torch.Tensor, labels: torch.Tensor
) -> Callable[[], object]:
    def call() -> None:
        asked = scores.clone().requires_grad_()
        loss(asked, labels).backward()

    return call
