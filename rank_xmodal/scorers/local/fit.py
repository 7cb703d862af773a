"""Training a head on batches of pairs: every caption of a batch against every image, both ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rank_xmodal import losses
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.lists.bags import Bag, TokenTable
from rank_xmodal.lists.list_tokens import tables_of
from rank_xmodal.scorers.local.network import LocalNetwork, Side, mean_of
from rank_xmodal.scorers.local.pairing import Grid
from rank_xmodal.scorers.projections.pairs import TrainingPairs
from rank_xmodal.scorers.projections.vsepp import max_of_hinges

HINGE = "max_of_hinges"
"""The objective that is no loss of lists: that of VSE++, and of most papers of local heads."""
_WARM = 256  # pairs in a step of the warm-up, which costs next to nothing
_RISE = 0.05  # share of the steps over which the learning rate rises
_CLIP = 2.0
_BLOCK = 256  # items at a time


def train_head(
    network: LocalNetwork, data: EmbeddingSet, seed: int, on_step: Callable[[int, int], None] = lambda step, steps: None
) -> None:
    """Train a head in place, on the pairs of the split train; it ends in evaluation mode.

    First both sides' maps: the cosine of the means of an image's cells and of a caption's words, with a softmax over
    the batch. That is where most is learnt, and quickly. Then the head with its objective, on tokens that were mapped
    once: trained further the maps learn their few images by heart.

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
    settings = network.settings
    device = network.sharpness.device
    pairs = TrainingPairs.gather(data, device)
    images, texts = tables_of(data)
    image_rows, text_rows = torch.from_numpy(pairs.image_rows), torch.from_numpy(pairs.text_rows)
    means = means_of(images, image_rows)
    for side, found in ((network.image, means), (network.text, means_of(texts, text_rows))):
        side.standardise(found.mean(0), found.std(0, correction=0))
    means = means.to(device)
    steps = settings.warm_up + settings.steps
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        network.train()

        def pooled(index: np.ndarray) -> Tensor:
            read = network.text.thinned(texts.take(text_rows[pairs.text[index]]).to(device))
            words = Bag.of(network.text.mapped(read.values), read.mask)
            image = network.image.mapped(means[torch.from_numpy(pairs.image[index]).to(device)])
            similarity = F.normalize(mean_of(words), dim=-1) @ F.normalize(image, dim=-1).T * network.sharpness.exp()
            return in_batch("softmax", similarity, pairs.match(index).T)

        def whole(index: np.ndarray) -> Tensor:
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

        warm = _Steps(network, settings.warm_up, settings.warm_up_lr, lambda step: on_step(step, steps))
        warm.take(pooled, _batches(pairs, _WARM, rng))
        cells, words = mapped(network.image, images, image_rows), mapped(network.text, texts, text_rows)
        for side in (network.image, network.text):
            side.map.requires_grad_(False)
            side.premapped = True
        own = _Steps(network, settings.steps, settings.lr, lambda step: on_step(settings.warm_up + step, steps))
        own.take(whole, _batches(pairs, settings.batch_size, rng))
        network.image.premapped = network.text.premapped = False
    network.eval()


@dataclass
class _Steps:
    """Steps of AdamW, the learning rate rising and then falling as a cosine."""

    network: LocalNetwork
    count: int
    lr: float
    on_step: Callable[[int], None]

    def take(self, loss_of: Callable[[np.ndarray], Tensor], batches: Iterator[np.ndarray]) -> None:
        """Take the steps.

        Raises
        ------
        UserError
            If the loss becomes NaN or infinite.
        """
        weights = [weight for weight in self.network.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, self.lr, weight_decay=self.network.settings.weight_decay)
        for step, index in zip(range(self.count), batches, strict=False):
            rate = min(1.0, (step + 1) / max(1, _RISE * self.count)) * 0.5 * (1 + np.cos(np.pi * step / self.count))
            for group in optimizer.param_groups:
                group["lr"] = self.lr * rate
            loss = loss_of(index)
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(weights, _CLIP)
            if not bool(torch.isfinite(loss.detach() + 0 * norm)):
                raise UserError(
                    f"Training stopped in step {step + 1}: the loss is {float(loss.detach()):.3g}, its gradient's norm "
                    f"{float(norm):.3g}. Lower lr (now {self.lr:g})."
                )
            optimizer.step()
            self.on_step(step + 1)


@torch.no_grad()
def mapped(side: Side, table: TokenTable, rows: Tensor) -> TokenTable:
    """Return the table of some items, (n,) int64, with their tokens mapped, in float16."""
    side.eval()
    parts, counts = [], []
    for block in rows.split(_BLOCK):
        bag = table.take(block).to(side.mean.device)
        parts.append(side.mapped(bag.values)[bag.mask].half().cpu())
        counts.append(bag.mask.sum(1).cpu())
    side.train()
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


def means_of(table: TokenTable, rows: Tensor) -> Tensor:
    """Return the mean of each item's tokens, (n,) rows -> (n, d) float32."""
    return torch.cat([mean_of(table.take(block)) for block in rows.split(_BLOCK)])


def _batches(pairs: TrainingPairs, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    while True:
        yield from pairs.batches(size, rng)
