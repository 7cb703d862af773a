"""Training a ranker on candidate lists: best weights by validation, early stopping, resumable, never silent on NaN."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rank_xmodal import losses
from rank_xmodal.adamw import AdamW
from rank_xmodal.allrank_ranker import allrank_loss
from rank_xmodal.calibration import Calibration
from rank_xmodal.calibration import fit as fit_calibration
from rank_xmodal.candidate_lists import CandidateLists
from rank_xmodal.embedding_set import Direction, EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation import FirstStage, mean, per_query, score_lists
from rank_xmodal.files import read_json, replacing, write_json
from rank_xmodal.list_tensors import ListTensors
from rank_xmodal.query_bank import Neighbours, choose_bank, neighbours, training_neighbours
from rank_xmodal.ranker import ALL_BLOCKS, LEAN_BLOCKS, RankerConfig
from rank_xmodal.ranker_folder import Ranker, build, pick_device
from rank_xmodal.settings import Settings

SELECTED_BY = "MRR"  # finer than R@1: with few validation queries R@1 moves in steps larger than the differences
# Lists below which a training set is small: the block `bilinear` would overfit, and the validation pairs are worth more
# as training pairs.
SMALL = 5_000
_WARM_UP = 0.05  # share of the steps over which the learning rate rises


@dataclass
class Trained:
    """What a training gives back.

    Attributes
    ----------
    model : the ranker with its best weights, in evaluation mode
    bank : ndarray (m, d), float16, the query bank it needs
    history : one dict an epoch: epoch, loss, lr, seconds and, where there is a validation, its metrics
    best_epoch : int; 0 is the untrained ranker
    calibration : Calibration or None
    """

    model: Ranker
    bank: np.ndarray
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    calibration: Calibration | None = None


def ranker_config(settings: Settings, dim: int, spread: float, lists: int) -> RankerConfig:
    """Return the model that the settings describe, for that many training lists."""
    full = settings.features == "full" and settings.ranker == "rank_xmodal"
    blocks = settings.blocks or (("concat",) if not full else LEAN_BLOCKS if lists < SMALL else ALL_BLOCKS)
    return RankerConfig(
        dim=dim,
        blocks=tuple(block for block in blocks if block not in settings.without),
        d_model=settings.d_model,
        layers=settings.layers,
        heads=settings.heads,
        d_ff=settings.d_ff,
        dropout=settings.dropout,
        residual=full if settings.residual is None else settings.residual,
        spread=spread,
    )


def spread_of(lists: CandidateLists) -> float:
    """Return the mean over lists of the cosines' standard deviation: the unit in which margins are of order 1."""
    valid = lists.candidates >= 0
    count = np.maximum(valid.sum(axis=1), 1)
    centre = np.where(valid, lists.cosine, 0).sum(axis=1) / count
    squares = np.where(valid, (lists.cosine - centre[:, None]) ** 2, 0).sum(axis=1) / count
    return max(float(np.sqrt(squares).mean()), 1e-4)


def train(
    data: EmbeddingSet,
    lists: CandidateLists,
    settings: Settings,
    *,
    validation: FirstStage | None = None,
    last_epoch: int | None = None,
    checkpoint: Path | None = None,
    on_epoch: Callable[[dict[str, float]], None] = lambda epoch: None,
    on_step: Callable[[int, int, int], None] = lambda epoch, step, steps: None,
) -> Trained:
    """Train a ranker.

    Parameters
    ----------
    data, lists
        An embedding set and training lists mined from it.
    settings : Settings
    validation : FirstStage or None
        Chooses the best epoch and fits the calibration; without it the last epoch is kept.
    last_epoch : int or None
        Stop after this epoch, on the way that the settings' schedule takes to its own last one.
    checkpoint : Path or None
        A folder that holds the state after each epoch. A training that was interrupted continues from it, and ends as
        it would have without the interruption. It is removed at the end.
    on_epoch : called after each epoch, and once at the start for the untrained ranker (epoch 0), with its figures
    on_step : called after each step with epoch, step and steps in an epoch

    Raises
    ------
    UserError
        If the loss becomes NaN or infinite, a checkpoint belongs to another training, no list holds both a relevant
        and a non-relevant candidate, or there is too little to calibrate on.
    """
    device = pick_device(settings.device)
    direction: Direction = "t2i" if lists.direction == "t2i" else "i2t"
    labels = lists.labels
    if not ((labels > 0).any(axis=1) & (labels == 0).any(axis=1)).any():
        raise UserError(
            f"{data.root or data.name}: no {direction} training list holds both a relevant and a non-relevant "
            "candidate. Mine lists with --protocol clean, or give the train split more items."
        )
    if settings.calibrate and validation is None:
        raise UserError(
            "calibrate=true needs a validation split (val), this set has none. Give it one, or leave it out."
        )
    bank_rows = choose_bank(data, direction, seed=settings.seed)
    bank = np.asarray(data.queries(direction)[bank_rows])
    config = ranker_config(settings, data.dim, spread_of(lists), len(lists))
    near = of_others = Neighbours.none(len(data.candidates(direction)))
    if "hubness" in config.blocks:
        near = training_neighbours(data, direction, bank_rows)
        of_others = neighbours(data.candidates(direction), bank) if validation is not None else of_others
    tensors = ListTensors.gather(data, lists, near, device, in_bank=True)
    held_out = None
    if validation is not None:
        held_out = ListTensors.gather(data, validation.lists, of_others, device, in_bank=False)

    torch.manual_seed(settings.seed)
    model = build(settings.ranker, config).to(device)
    loss_function = (
        allrank_loss(settings.loss)
        if settings.ranker == "allrank"
        else losses.get(settings.loss, **settings.loss_params)
    )
    optimizer = AdamW(model.parameters(), settings.lr, settings.weight_decay)
    step = Step(model, loss_function, optimizer, settings)
    steps = math.ceil(len(tensors) / settings.batch_size)
    state = _State(checkpoint, model, optimizer, {"settings": settings.model_dump(mode="json"), **_identity(lists)})
    state.resume()

    def validate(figures: dict[str, float]) -> None:
        by_query = None
        if held_out is not None and validation is not None:
            values = per_query(score_lists(model, held_out), validation)
            figures.update({f"val_{k}": v for k, v in mean(values).items()})
            by_query = values[SELECTED_BY]
        state.note(figures, by_query)
        on_epoch(figures)

    if not state.history:
        validate({"epoch": 0})
    for epoch in range(len(state.history), (last_epoch or settings.epochs) + 1):
        if epoch - 1 - state.best_epoch >= settings.patience and validation is not None:
            break
        started, total = time.perf_counter(), 0.0
        # Seeded by epoch: a resumed training draws the same order and the same dropout as an uninterrupted one.
        torch.manual_seed(settings.seed * 1_000_003 + epoch)
        order = torch.randperm(len(tensors)).to(device)
        model.train()
        for place, index in enumerate(order.split(settings.batch_size)):
            optimizer.lr = _rate((epoch - 1) * steps + place, settings.epochs * steps, settings)
            try:
                value = step(tensors, index)
            except _NotFiniteError as error:
                raise UserError(f"Training stopped in epoch {epoch}, step {place + 1}: {error}") from None
            total += value * len(index)
            on_step(epoch, place + 1, steps)
        seconds = time.perf_counter() - started
        validate({"epoch": epoch, "loss": total / len(tensors), "lr": optimizer.lr, "seconds": seconds})
    state.load_best()
    calibration = None
    if settings.calibrate and held_out is not None:
        calibration = fit_calibration(score_lists(model, held_out), held_out.labels.cpu())
    state.remove()
    return Trained(model.eval(), bank, state.history, state.best_epoch, calibration)


class _NotFiniteError(ArithmeticError):
    """A loss or a gradient that is not finite; the weights are as they were before the step."""


@dataclass
class Step:
    """One step of a training: gather, score, loss, gradient, update."""

    model: nn.Module
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    optimizer: AdamW
    settings: Settings

    def __call__(self, tensors: ListTensors, index: torch.Tensor) -> float:
        """Take the step on the lists `index` (B,); return the loss.

        Raises
        ------
        ArithmeticError
            If the loss or the gradient is not finite: with the cause and the remedy, and before the weights change.
        """
        batch, target = tensors.batch(index)
        with torch.autocast("cuda", torch.bfloat16, enabled=index.device.type == "cuda"):
            scores = self.model(batch)
        loss = self.loss(scores, target)
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        if not math.isfinite(value := (loss.detach() + 0 * norm).item()):
            raise _NotFiniteError(_cause(loss.detach(), scores.detach(), norm, self.settings))
        self.optimizer.step()
        return value


def _rate(step: int, steps: int, settings: Settings) -> float:
    if settings.schedule == "constant":
        return settings.lr
    warm = max(1, round(_WARM_UP * steps))
    return settings.lr * min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _cause(loss: torch.Tensor, scores: torch.Tensor, norm: torch.Tensor, settings: Settings) -> str:
    if not bool(torch.isfinite(scores).all()):
        what = "the ranker's scores are not finite: the weights have diverged"
    elif not bool(torch.isfinite(loss)):
        what = f"the scores are finite (largest {float(scores.abs().max()):.3g}), the loss {settings.loss} is not"
    else:
        what = f"the loss is {float(loss):.3g}, but its gradient's norm is {float(norm):.3g}"
    return f"{what}. Lower lr (now {settings.lr:g}) or clip (now {settings.clip:g}); the best weights so far are kept."


def _identity(lists: CandidateLists) -> dict[str, Any]:
    return {"fingerprint": lists.info["fingerprint"], "direction": lists.direction, "lists": len(lists)}


class _State:
    """The state after an epoch, in memory and, where there is a folder for it, on disk."""

    def __init__(self, folder: Path | None, model: nn.Module, optimizer: AdamW, identity: dict[str, Any]) -> None:
        self.folder, self.model, self.optimizer, self.identity = folder, model, optimizer, identity
        self.history: list[dict[str, float]] = []
        self.best_epoch = 0
        self.best = self._weights()
        self.highest = torch.zeros(0, dtype=torch.float64)  # the highest validation so far, by query

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}

    def note(self, figures: dict[str, float], by_query: torch.Tensor | None) -> None:
        self.history.append(figures)
        if by_query is None or self._good_enough(by_query):
            self.best_epoch, self.best = int(figures["epoch"]), self._weights()
        if self.folder is None:
            return
        moments = {f"optimizer.{name}": value.cpu().contiguous() for name, value in self.optimizer.state().items()}
        tensors = {
            **{f"best.{name}": value for name, value in self.best.items()},
            **{f"now.{name}": value.contiguous() for name, value in self._weights().items()},
            **moments,
            "highest": self.highest,
        }
        facts = {**self.identity, "history": self.history, "best_epoch": self.best_epoch}
        with replacing(self.folder) as part:
            part.mkdir(parents=True)
            save_file(tensors, part / "state.safetensors")
            write_json(part / "state.json", facts)

    def _good_enough(self, by_query: torch.Tensor) -> bool:
        """Say whether an epoch is the best so far, or within a standard error of it.

        With few validation queries the highest epoch is chosen by luck, and a later one, at a lower learning rate, is
        the better bet; with many, a standard error is next to nothing. (The one-standard-error rule of Breiman et al.
        1984, over paired queries.)
        """
        if not len(self.highest):
            self.highest = by_query
            return True
        gain = by_query - self.highest
        if gain.mean() > 0:
            self.highest = by_query
            return True
        error = gain.std() / math.sqrt(len(gain)) if len(gain) > 1 else 0.0
        return bool(gain.any()) and bool(gain.mean() >= -error)

    def resume(self) -> None:
        if self.folder is None or not self.folder.is_dir():
            return
        facts = read_json(self.folder / "state.json")
        other = [key for key, value in self.identity.items() if facts.get(key) != value]
        if other:
            raise UserError(
                f"{self.folder}: an unfinished training with other {other[0]} is kept here. "
                "Finish it with its own settings, choose another --out, or drop it with --overwrite."
            )
        try:
            tensors = load_file(self.folder / "state.safetensors")
        except (SafetensorError, FileNotFoundError) as error:
            raise UserError(f"{self.folder}: its state can't be read ({error}). Delete the folder.") from error
        if "optimizer.step.0" not in tensors:
            raise UserError(f"{self.folder}: the state of another version of rank_xmodal. Delete the folder.")
        self.model.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("now.")})
        self.best = {k[5:]: v for k, v in tensors.items() if k.startswith("best.")}
        self.optimizer.load({k[10:]: v for k, v in tensors.items() if k.startswith("optimizer.")})
        self.highest = tensors["highest"]
        self.history, self.best_epoch = facts["history"], facts["best_epoch"]

    def load_best(self) -> None:
        self.model.load_state_dict(self.best)

    def remove(self) -> None:
        if self.folder is not None and self.folder.is_dir():
            shutil.rmtree(self.folder)
