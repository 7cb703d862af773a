"""Training a network on candidate lists: best weights by validation, early stopping, resumable, never silent on NaN."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.judging import mean
from rank_xmodal.lists.bags import Bag
from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.list_tensors import ListTensors
from rank_xmodal.lists.needs import Needs
from rank_xmodal.lists.scoring import HeldOut
from rank_xmodal.training.adamw import AdamW
from rank_xmodal.training.checkpoint import Checkpoint
from rank_xmodal.training.settings import TrainingSettings
from rank_xmodal.training.step import Loss, NotFiniteError, Step
from rank_xmodal.training.watch import Watch

SELECTED_BY = "MRR"  # finer than R@1: with few validation queries R@1 moves in steps larger than the differences
_SEEN = 2_000  # training lists that a loss is told of where nothing is trained
_WARM_UP = 0.05  # share of the steps over which the learning rate rises


class Network(nn.Module):
    """What the loop trains: a module that scores a batch of lists."""

    needs: Needs

    def project(self, candidates: torch.Tensor) -> torch.Tensor | None:
        """Return what can be made of each candidate once for all lists, (m, d) -> (m, k), or None."""
        return None

    def project_tokens(self, tokens: Bag) -> tuple[Bag, ...]:
        """Return what can be made of the candidates' tokens once for all lists; asked where it needs tokens."""
        raise NotImplementedError

    def score(self, batch: ListBatch) -> torch.Tensor:
        """Return scores (B, L), float32; padding's are meaningless."""
        scores: torch.Tensor = self(batch)
        return scores


@dataclass(frozen=True)
class Progress:
    """How a training went.

    Attributes
    ----------
    history : one dict an epoch: epoch, loss, lr, seconds and, where there is a validation, its metrics
    best_epoch : int; 0 is the untrained network
    """

    history: list[dict[str, float]]
    best_epoch: int


def train(
    network: Network,
    loss: Loss,
    tensors: ListTensors,
    settings: TrainingSettings,
    *,
    seed: int,
    identity: dict[str, Any],
    held_out: HeldOut | None = None,
    watch: Watch | None = None,
) -> Progress:
    """Train a network in place; it ends with its best weights, in evaluation mode.

    Parameters
    ----------
    network : Network, on the device of the tensors
    loss : scores (B, L), labels (B, L) -> scalar
    tensors : ListTensors
    settings : TrainingSettings
    seed : int
        Of the order of the lists and of dropout, drawn from torch's own generator.
    identity : dict
        What tells this training from others: a checkpoint of another one is refused.
    held_out : HeldOut or None
        Chooses the best epoch; without it the last epoch is kept.
    watch : Watch or None

    Raises
    ------
    UserError
        If the loss becomes NaN or infinite, or a checkpoint belongs to another training.
    """
    watch = watch or Watch()
    optimizer = AdamW(network.parameters(), settings.lr, settings.weight_decay)
    step = Step(network, loss, optimizer, settings)
    steps = math.ceil(len(tensors) / settings.batch_size)
    state = Checkpoint(watch.checkpoint, network, optimizer, identity)
    state.resume()

    def validate(figures: dict[str, float]) -> None:
        by_query = None
        if held_out is not None:
            network.eval()
            values = held_out.judge(network)
            figures.update({f"val_{k}": v for k, v in mean(values).items()})
            by_query = values[SELECTED_BY]
        state.note(figures, by_query, None if held_out is None else held_out.group)
        watch.on_epoch(figures)

    if not state.history:
        validate({"epoch": 0})
    for epoch in range(len(state.history), (watch.last_epoch or settings.epochs) + 1):
        if epoch - 1 - state.best_epoch >= settings.patience and held_out is not None:
            break
        started, total = time.perf_counter(), 0.0
        # Seeded by epoch: a resumed training draws the same order and the same dropout as an uninterrupted one.
        torch.manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(len(tensors)).to(tensors.rows.device)
        network.train()
        for place, index in enumerate(order.split(settings.batch_size)):
            optimizer.lr = _rate((epoch - 1) * steps + place, settings.epochs * steps, settings)
            try:
                value = step(tensors, index)
            except NotFiniteError as error:
                raise UserError(f"Training stopped in epoch {epoch}, step {place + 1}: {error}") from None
            total += value * len(index)
            watch.on_step(epoch, place + 1, steps)
        seconds = time.perf_counter() - started
        validate({"epoch": epoch, "loss": total / len(tensors), "lr": optimizer.lr, "seconds": seconds})
    state.load_best()
    network.eval()
    return Progress(state.history, state.best_epoch)


@torch.no_grad()
def untrained(network: Network, loss: Loss, tensors: ListTensors, held_out: HeldOut | None) -> dict[str, float]:
    """Return the figures of a network without parameters as epoch 0: its loss on training lists, and its validation."""
    network.eval()
    rows = torch.linspace(0, len(tensors) - 1, min(len(tensors), _SEEN), device=tensors.rows.device).long()
    total = 0.0
    for index in rows.split(64):
        batch, labels = tensors.batch(index)
        total += float(loss(network.score(batch), labels)) * len(index)
    figures = {"epoch": 0, "loss": total / len(rows)}
    if held_out is not None:
        figures |= {f"val_{key}": value for key, value in mean(held_out.judge(network)).items()}
    return figures


def _rate(step: int, steps: int, settings: TrainingSettings) -> float:
    if settings.schedule == "constant":
        return settings.lr
    warm = max(1, round(_WARM_UP * steps))
    return settings.lr * min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))
