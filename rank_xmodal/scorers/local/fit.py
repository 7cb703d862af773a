"""Training a head on batches of pairs: every caption of a batch against every image, both ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rank_xmodal import losses
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.lists.bags import TokenTable
from rank_xmodal.lists.list_tokens import tables_of
from rank_xmodal.scorers.local.network import LocalNetwork, mean_of
from rank_xmodal.scorers.local.pairing import Grid
from rank_xmodal.scorers.projections.pairs import TrainingPairs
from rank_xmodal.scorers.projections.vsepp import max_of_hinges

HINGE = "max_of_hinges"
"""The objective that is no loss of lists: that of VSE++, and of most papers of local heads."""
_WARM = 256  # pairs in a step of the warm-up, which costs next to nothing
_RISE = 0.05  # share of the steps over which the learning rate rises
_CLIP = 2.0
_BLOCK = 512  # items at a time


def train_head(
    network: LocalNetwork, data: EmbeddingSet, seed: int, on_step: Callable[[int, int], None] = lambda step, steps: None
) -> None:
    """Train a head in place, on the pairs of the split train; it ends in evaluation mode.

    First both sides' maps alone: the cosine of the means of an image's cells and of a caption's words, with a softmax
    over the batch. That is where most is learnt, and quickly; heads that began without it got stuck on few images. Then
    the head itself with its objective.

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
            words = network.text.forward(texts.take(text_rows[pairs.text[index]]).to(device))
            image = network.image.mapped(means[torch.from_numpy(pairs.image[index]).to(device)])
            similarity = F.normalize(mean_of(words), dim=-1) @ F.normalize(image, dim=-1).T * network.sharpness.exp()
            return in_batch("softmax", similarity, pairs.match(index).T)

        def whole(index: np.ndarray) -> Tensor:
            seen = network.encode_image(images.take(image_rows[pairs.image[index]]).to(device))
            read = network.encode_text(texts.take(text_rows[pairs.text[index]]).to(device))
            match = pairs.match(index).T
            loss = network.own_loss(seen, read, match)
            if loss is None:
                similarity = network.match(seen, read, Grid())
                sharp = similarity if settings.objective == HINGE else similarity * network.sharpness.exp()
                loss = in_batch(settings.objective, sharp, match)
            added = network.penalty()
            return loss if added is None else loss + added

        for phase, count, size, lr, before in (
            (pooled, settings.warm_up, _WARM, settings.warm_up_lr, 0),
            (whole, settings.steps, settings.batch_size, settings.lr, settings.warm_up),
        ):
            optimizer = torch.optim.AdamW(network.parameters(), lr, weight_decay=settings.weight_decay)
            for step, index in zip(range(count), _batches(pairs, size, rng), strict=False):
                rate = min(1.0, (step + 1) / max(1, _RISE * count)) * 0.5 * (1 + np.cos(np.pi * step / count))
                for group in optimizer.param_groups:
                    group["lr"] = lr * rate
                loss = phase(index)
                optimizer.zero_grad()
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(network.parameters(), _CLIP)
                if not bool(torch.isfinite(loss.detach() + 0 * norm)):
                    raise UserError(
                        f"Training stopped in step {before + step + 1}: the loss is {float(loss.detach()):.3g}, its "
                        f"gradient's norm {float(norm):.3g}. Lower lr (now {lr:g})."
                    )
                optimizer.step()
                on_step(before + step + 1, steps)
    network.eval()


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
