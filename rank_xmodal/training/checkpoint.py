"""The state of a training after an epoch, its best weights among it, in memory and on disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.significance import standard_error
from rank_xmodal.files import read_json, replacing, write_json
from rank_xmodal.training.adamw import AdamW


class Checkpoint:
    """The state after an epoch, in memory and, where there is a folder for it, on disk."""

    def __init__(self, folder: Path | None, model: nn.Module, optimizer: AdamW, identity: dict[str, Any]) -> None:
        self.folder, self.model, self.optimizer, self.identity = folder, model, optimizer, identity
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
        if self.folder is None:
            return
        moments = {f"optimizer.{name}": value.cpu().contiguous() for name, value in self.optimizer.state().items()}
        tensors = {
            **{f"best.{name}": value for name, value in self.best.items()},
            **{f"now.{name}": value.contiguous() for name, value in self._weights().items()},
            **moments,
            "highest": self.highest,
            "start": self.start.clone(),  # at first the same tensor as the highest
        }
        facts = {**self.identity, "history": self.history, "best_epoch": self.best_epoch}
        with replacing(self.folder) as part:
            part.mkdir(parents=True)
            save_file(tensors, part / "state.safetensors")
            write_json(part / "state.json", facts)

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
        """Go on from the folder, where it holds a state.

        Raises
        ------
        UserError
            If that is the state of another training, or can't be read.
        """
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
        if "optimizer.step.0" not in tensors or "start" not in tensors:
            raise UserError(f"{self.folder}: the state of another version of rank_xmodal. Delete the folder.")
        self.model.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("now.")})
        self.best = {k[5:]: v for k, v in tensors.items() if k.startswith("best.")}
        self.optimizer.load({k[10:]: v for k, v in tensors.items() if k.startswith("optimizer.")})
        self.highest, self.start = tensors["highest"], tensors["start"]
        self.history, self.best_epoch = facts["history"], facts["best_epoch"]

    def load_best(self) -> None:
        """Put the best weights back."""
        self.model.load_state_dict(self.best)

    def remove(self) -> None:
        """Delete the folder."""
        if self.folder is not None and self.folder.is_dir():
            shutil.rmtree(self.folder)
