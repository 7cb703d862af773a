"""What a scorer costs: milliseconds a query, bytes an item, seconds to fit."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from rank_xmodal.data.embedding_set import Direction, EmbeddingSet, check_direction
from rank_xmodal.lists.list_tensors import ListTensors
from rank_xmodal.retrieval.first_stage import retriever_of
from rank_xmodal.retrieval.gallery import DEPTH, RankedGallery
from rank_xmodal.retrieval.hamming_retriever import HammingRetriever
from rank_xmodal.scorers import Stack
from rank_xmodal.torchvision_ops import make_importable

_QUERIES = 32  # scored at a time
_PASSES, _FEW_PASSES = 9, 3  # the median of which counts
FIRST_FEW, _WORDS = 5, 16  # candidates that a cross-encoder looks at, and tokens of a caption


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
        Where the scorer finds candidates itself, for want of a common space, only what its first stage keeps.
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
    """Time a fitted scorer on the first lists of a gallery, 51 candidates each."""
    first = gallery.lists
    first = replace(first, **{name: getattr(first, name)[:, :DEPTH] for name in ("candidates", "labels", "cosine")})
    lists = stack.to(device).tensors(data, first, device).projected_by(stack.scorer)
    index = torch.arange(min(_QUERIES, len(lists)), device=device)
    times = []
    for _ in range(_PASSES + 1):
        started = time.perf_counter()
        batch, _ = lists.batch(index)
        stack.scorer.score(batch).sum().item()  # waits for a GPU
        times.append(time.perf_counter() - started)
    milliseconds = 1000 * statistics.median(times[1:]) / len(index)
    return Cost(seconds, milliseconds, _item_bytes(stack, data, check_direction(gallery.lists.direction), lists))


def _item_bytes(stack: Stack, data: EmbeddingSet, direction: Direction, lists: ListTensors) -> float:
    """Return what is kept of an average candidate."""
    kept = data.candidates(direction)  # the first stage looks at every candidate's embedding
    found = float(kept.shape[1] * kept.itemsize)
    if not data.aligned:  # it finds them by what it made of each
        index = retriever_of(stack.own_space).index(kept[:1])
        of_one = index.codes if isinstance(index, HammingRetriever) else index.candidates
        assert of_one is not None
        found = float(of_one.nbytes)
    elif lists.projected is not None:
        found += lists.projected.shape[1] * lists.projected.element_size()
    if stack.scorer.needs.neighbours:
        near = lists.neighbours
        found += sum(part.shape[1] * part.element_size() for part in (near.cosine, near.group))
    if lists.tokens is not None:
        table = lists.tokens.candidates
        found += table.values.numel() * table.values.element_size() / len(table)
    return found


@torch.inference_mode()
def cross_encoder_milliseconds(device: torch.device, blip: Any = None) -> float:
    """Return how long a cross-encoder takes to score the first five candidates of a query, images read from memory.

    Its weights are random: it costs as much, and says nothing. Every candidate is an image of its own, as in a search
    from text to image.

    Parameters
    ----------
    device : torch.device
    blip : transformers.BlipConfig or None
        Of BLIP base with a matching head, if none is given.

    Raises
    ------
    ImportError
        If transformers isn't installed.
    """
    make_importable()
    from transformers import BlipConfig, BlipForImageTextRetrieval

    config: Any = blip or BlipConfig(vision_config={"image_size": 384})
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        model = BlipForImageTextRetrieval(config)
        model.train(False)
        side = config.vision_config.image_size
        pixels = torch.randn(FIRST_FEW, 3, side, side)
        words = torch.randint(config.text_config.vocab_size, (FIRST_FEW, _WORDS))
    times = []
    for _ in range(_FEW_PASSES + 1):
        started = time.perf_counter()
        seen = model.vision_model(pixel_values=pixels).last_hidden_state
        read = model.text_encoder(input_ids=words, encoder_hidden_states=seen).last_hidden_state
        model.itm_head(read[:, 0]).sum().item()  # waits for a GPU
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[1:])
