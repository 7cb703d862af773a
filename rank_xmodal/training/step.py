"""One step of a training: gather, score, loss, gradient, update."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from rank_xmodal.lists.list_tensors import ListTensors
from rank_xmodal.training.adamw import AdamW
from rank_xmodal.training.settings import TrainingSettings

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class NotFiniteError(ArithmeticError):
    """A loss or a gradient that is not finite; the weights are as they were before the step."""


@dataclass
class Step:
    """One step of a training: gather, score, loss, gradient, update."""

    model: nn.Module
    loss: Loss
    optimizer: AdamW
    settings: TrainingSettings

    def __call__(self, tensors: ListTensors, index: torch.Tensor) -> float:
        """Take the step on the lists `index` (B,); return the loss.

        Raises
        ------
        NotFiniteError
            If the loss or the gradient is not finite: with the cause and the remedy, and before the weights change.
        """
        batch, target = tensors.batch(index)
        with torch.autocast("cuda", torch.bfloat16, enabled=index.device.type == "cuda"):
            scores = self.model(batch)
        loss = self._loss(scores, target)
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        if not math.isfinite(value := (loss.detach() + 0 * norm).item()):
            raise NotFiniteError(_cause(loss.detach(), scores.detach(), norm, self.settings))
        self.optimizer.step()
        return value

    def _loss(self, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss; one that refuses NaN among the scores means the same as one that becomes NaN."""
        try:
            return self.loss(scores, target)
        except ValueError:
            if not bool(scores.isnan().any()):
                raise
            nothing = scores.detach().sum()
            raise NotFiniteError(_cause(nothing, scores.detach(), nothing, self.settings)) from None


def _cause(loss: torch.Tensor, scores: torch.Tensor, norm: torch.Tensor, settings: TrainingSettings) -> str:
    if not bool(torch.isfinite(scores).all()):
        what = "the ranker's scores are not finite: the weights have diverged"
    elif not bool(torch.isfinite(loss)):
        what = f"the scores are finite (largest {float(scores.abs().max()):.3g}), the loss {settings.loss} is not"
    else:
        what = f"the loss is {float(loss):.3g}, but its gradient's norm is {float(norm):.3g}"
    return f"{what}. Lower lr (now {settings.lr:g}) or clip (now {settings.clip:g}); the best weights so far are kept."
