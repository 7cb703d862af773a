"""What a scorer costs: milliseconds a query, bytes an item, seconds to fit."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.lists.list_tensors import ListTensors
from rank_xmodal.retrieval.gallery import RankedGallery
from rank_xmodal.scorers import Stack

_QUERIES = 32  # scored at a time
_PASSES = 9  # the median of which counts


@dataclass(frozen=True)
class Cost:
    """Costs of a scorer on a gallery.

    Attributes
    ----------
    seconds : float
        To fit it, whatever it stands on included, mining of lists not.
    milliseconds : float
        To score the candidates of a query, 32 queries at a time, when the gallery is prepared.
    item_bytes : float
        What is kept of each candidate: embedding, neighbours, what the scorer made of it, and its tokens as stored.
    """

    seconds: float
    milliseconds: float
    item_bytes: float

    def facts(self) -> dict[str, str]:
        """Return the columns of a table."""
        return {
            "fit, s": f"{self.seconds:,.1f}",
            "ms a query": f"{self.milliseconds:.3f}",
            "bytes an item": f"{self.item_bytes:,.0f}",
        }


@torch.inference_mode()
def cost_of(stack: Stack, data: EmbeddingSet, gallery: RankedGallery, device: torch.device, seconds: float) -> Cost:
    """Time a fitted scorer on the first lists of a gallery."""
    lists = stack.to(device).tensors(data, gallery.lists, device).projected_by(stack.scorer)
    index = torch.arange(min(_QUERIES, len(lists)), device=device)
    times = []
    for _ in range(_PASSES + 1):
        started = time.perf_counter()
        batch, _ = lists.batch(index)
        stack.scorer.score(batch).sum().item()  # waits for a GPU
        times.append(time.perf_counter() - started)
    milliseconds = 1000 * statistics.median(times[1:]) / len(index)
    return Cost(seconds, milliseconds, _item_bytes(stack, lists))


def _item_bytes(stack: Stack, lists: ListTensors) -> float:
    """Return what is kept of an average candidate."""
    found = float(lists.candidates.shape[1] * lists.candidates.element_size())
    if lists.projected is not None:
        found += lists.projected.shape[1] * lists.projected.element_size()
    if stack.scorer.needs.neighbours:
        near = lists.neighbours
        found += sum(part.shape[1] * part.element_size() for part in (near.cosine, near.group))
    if lists.tokens is not None:
        table = lists.tokens.candidates
        found += table.values.numel() * table.values.element_size() / len(table)
    return found
