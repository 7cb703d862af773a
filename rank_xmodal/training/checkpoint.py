"""The state of a training after an epoch, its best weights among it, in memory and on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.significance import standard_error
from rank_xmodal.files.tensors import read_checked, write_checked
from rank_xmodal.training.adamw import AdamW

_FACTS = "facts"


class Checkpoint:
    """The state after an epoch, in memory and, where there is a place for it, in a file."""

    def __init__(self, path: Path | None, model: nn.Module, optimizer: AdamW, identity: dict[str, Any]) -> None:
        self.path, self.model, self.optimizer, self.identity = path, model, optimizer, identity
        self.history: list[dict[str, float]] = []
        self.best_epoch = 0
        self.best = self._weights()
        # By query, the highest validation so far and that of the untrained start.
        self.highest = self.start = torch.zeros(0, dtype=torch.float64)

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}

    def note(self, figures: dict[str, float], by_query: torch.Tensor | None, group: np.ndarray | None = None) -> None:
        """Take down an epoch: its figures, and by query the metric that chooses; keep the weights if they are best."""
        self.history.append(figures)
        if by_query is None or self._good_enough(by_query, group):
            self.best_epoch, self.best = int(figures["epoch"]), self._weights()
        if self.path is None:
            return
        moments = {f"optimizer.{name}": value for name, value in self.optimizer.state().items()}
        tensors = {
            **{f"best.{name}": value for name, value in self.best.items()},
            **{f"now.{name}": value for name, value in self._weights().items()},
            **moments,
            "highest": self.highest,
            "start": self.start.clone(),  # at first the same tensor as the highest
        }
        facts = {**self.identity, "history": self.history, "best_epoch": self.best_epoch}
        write_checked(self.path, tensors, {_FACTS: json.dumps(facts)})

    def _good_enough(self, by_query: torch.Tensor, group: np.ndarray | None) -> bool:
        """Say whether an epoch is the best so far, or within a standard error of it and above the start.

        With few validation queries the highest epoch is chosen by luck, and a later one, at a lower learning rate, is
        the better bet; with many, a standard error is next to nothing. (The one-standard-error rule of Breiman et al.
        1984, over paired queries, those of a group together.) The untrained start is no epoch of the training: what
        isn't better than it doesn't replace it.
        """
        if not len(self.highest):
            self.highest = self.start = by_query
            return True
        gain = by_query - self.highest
        if gain.mean() > 0:
            self.highest = by_query
            return True
        error = standard_error(gain.numpy(), group)
        return bool(gain.any() and by_query.mean() > self.start.mean() and gain.mean() >= -error)

    def resume(self) -> None:
        """Go on from the file, where there is one.

        Raises
        ------
        UserError
            If it holds the state of another training, or can't be read.
        """
        if self.path is None or not self.path.exists():
            return
        tensors, told = read_checked(self.path)
        try:
            facts = json.loads(told[_FACTS])
            other = [key for key, value in self.identity.items() if facts.get(key) != value]
        except (KeyError, ValueError, AttributeError, RecursionError) as error:
            raise UserError(f"{self.path}: holds no state of a training. Delete it.") from error
        if other:
            raise UserError(
                f"{self.path}: the state of a training with other {other[0]}. Finish that with its own, or delete it."
            )
        try:
            self.model.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("now.")})
            self.best = {k[5:]: v for k, v in tensors.items() if k.startswith("best.")}
            self.optimizer.load({k[10:]: v for k, v in tensors.items() if k.startswith("optimizer.")})
            self.highest, self.start = tensors["highest"], tensors["start"]
            self.history, self.best_epoch = facts["history"], facts["best_epoch"]
        except (KeyError, RuntimeError) as error:
            raise UserError(f"{self.path}: the state of another version of rank_xmodal. Delete it.") from error

    def load_best(self) -> None:
        """Put the best weights back."""
        self.model.load_state_dict(self.best)
