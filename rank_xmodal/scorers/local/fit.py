"""Training a head on batches of pairs: every caption of a batch against every image, both ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rank_xmodal import losses
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.lists.bags import TokenTable
from rank_xmodal.lists.list_tokens import tables_of
from rank_xmodal.scorers.local.network import LocalNetwork, Side
from rank_xmodal.scorers.local.pairing import Grid
from rank_xmodal.scorers.projections.pairs import TrainingPairs
from rank_xmodal.scorers.projections.vsepp import max_of_hinges

HINGE = "max_of_hinges"
"""The objective that is no loss of lists: that of VSE++, and of most papers of local heads."""
_SAMPLE = 20_000  # tokens that are looked at to whiten all
_RISE = 0.05  # share of the steps over which the learning rate rises
_CLIP = 2.0
_BLOCK = 64  # items at a time


def train_head(
    network: LocalNetwork, data: EmbeddingSet, seed: int, on_step: Callable[[int, int], None] = lambda step, steps: None
) -> None:
    """Train a head in place, on the pairs of the split train; it ends in evaluation mode.

    Tokens are whitened first, once, as those of the training items are distributed.

    Parameters
    ----------
    network : LocalNetwork
    data : EmbeddingSet
    seed : int
        Of the order of the pairs, and of what is left out.
    on_step : callable
        Told of each step, and how many there are.

    Raises
    ------
    UserError
        If the set has no tokens or no training pair, or the loss becomes NaN or infinite.
    """
    settings, device = network.settings, network.sharpness.device
    pairs = TrainingPairs.gather(data, device)
    images, texts = tables_of(data)
    image_rows, text_rows = torch.from_numpy(pairs.image_rows), torch.from_numpy(pairs.text_rows)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        for side, table, rows in ((network.image, images, image_rows), (network.text, texts, text_rows)):
            side.whiten_as(_sample(table, rows).to(device))
        cells, words = whitened(network.image, images, image_rows), whitened(network.text, texts, text_rows)
        network.train()

        def loss_of(index: np.ndarray) -> Tensor:
            seen = network.encode_image(cells.take(torch.from_numpy(pairs.image[index])).to(device))
            read = network.encode_text(words.take(torch.from_numpy(pairs.text[index])).to(device))
            match = pairs.match(index).T
            loss = network.own_loss(seen, read, match)
            if loss is None:
                similarity = network.match(seen, read, Grid())
                sharp = similarity if settings.objective == HINGE else similarity * network.sharpness.exp()
                loss = in_batch(settings.objective, sharp, match)
            added = network.penalty()
            return loss if added is None else loss + added

        network.image.reduced = network.text.reduced = True
        _take_steps(network, loss_of, _batches(pairs, settings.batch_size, rng), on_step)
        network.image.reduced = network.text.reduced = False
    network.eval()


def _take_steps(
    network: LocalNetwork, loss_of: Callable[[np.ndarray], Tensor], batches: Iterator[np.ndarray],
    on_step: Callable[[int, int], None],
) -> None:  # fmt: skip
    """Take the steps of AdamW that the settings say, the learning rate rising and then falling as a cosine."""
    count, lr = network.settings.steps, network.settings.lr
    optimizer = torch.optim.AdamW(network.parameters(), lr, weight_decay=network.settings.weight_decay)
    for step, index in zip(range(count), batches, strict=False):
        rate = min(1.0, (step + 1) / max(1, _RISE * count)) * 0.5 * (1 + np.cos(np.pi * step / count))
        for group in optimizer.param_groups:
            group["lr"] = lr * rate
        loss = loss_of(index)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), _CLIP)
        if not bool(torch.isfinite(loss.detach() + 0 * norm)):
            raise UserError(
                f"Training stopped in step {step + 1}: the loss is {float(loss.detach()):.3g}, its gradient's norm "
                f"{float(norm):.3g}. Lower lr (now {lr:g})."
            )
        optimizer.step()
        on_step(step + 1, count)


def _sample(table: TokenTable, rows: Tensor) -> Tensor:
    """Return tokens of random items, (m, d) float32, about as many as whitening needs."""
    most = max(1, round(_SAMPLE * len(table) / len(table.values)))
    bag = table.take(rows[torch.randperm(len(rows))[:most]])
    return bag.values[bag.mask]


@torch.no_grad()
def whitened(side: Side, table: TokenTable, rows: Tensor) -> TokenTable:
    """Return the table of some items, (n,) int64, with their tokens whitened, in float16."""
    parts, counts = [], []
    for block in rows.split(_BLOCK):
        bag = table.take(block).to(side.mean.device)
        parts.append(side.whitened(bag.values[bag.mask]).half().cpu())
        counts.append(bag.mask.sum(1).cpu())
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(counts).cumsum(0)])
    return TokenTable(torch.cat(parts), offsets)


def in_batch(objective: str, similarity: Tensor, match: Tensor) -> Tensor:
    """Return the loss of a batch both ways, a scalar: each caption's images as a list, and each image's captions.

    Parameters
    ----------
    objective : str
        One of `rank_xmodal.losses.names()`, or "max_of_hinges".
    similarity : Tensor (captions, images)
    match : Tensor (captions, images), bool
        Which belong together: never each other's negatives.
    """
    if objective == HINGE:
        return max_of_hinges(similarity, match)
    function, labels = losses.get(objective), match.to(torch.int8)
    ways: Any = ((similarity, labels), (similarity.T, labels.T))
    return function(*ways[0]) + function(*ways[1])


def _batches(pairs: TrainingPairs, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    while True:
        yield from pairs.batches(size, rng)
