"""Scorers that are a network trained on candidate lists: what they share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from typing_extensions import Self

from rank_xmodal import losses
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.devices import check_memory
from rank_xmodal.errors import UserError
from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.list_tensors import ListTensors
from rank_xmodal.lists.scoring import HeldOut
from rank_xmodal.scorers.base import Scorer
from rank_xmodal.scorers.context_aware.ranker import RankerConfig
from rank_xmodal.scorers.settings import ListSettings
from rank_xmodal.training.loop import Network, train, untrained
from rank_xmodal.training.settings import TrainingSettings
from rank_xmodal.training.step import Loss
from rank_xmodal.training.watch import Watch

# Lists below which a training set is small: the block `bilinear` would overfit, and the validation pairs are worth more
# as training pairs.
SMALL = 5_000

# The paper's recipe (its section on the experimental setup).
PAPER: dict[str, Any] = {
    "lists": "clean",
    "pool": 200,
    "layers": 2,
    "epochs": 100,
    "patience": 100,
    "batch_size": 32,
    "schedule": "constant",
    "weight_decay": 0.0,
    "refit": False,
}


class ListTrainedSettings(TrainingSettings, ListSettings):
    """Which lists, how large a network, how it is trained."""

    d_model: int = Field(64, ge=1, le=65_536)
    layers: int = Field(1, ge=0, le=1_000)
    heads: int = Field(4, ge=1, le=65_536)
    d_ff: int = Field(128, ge=1, le=1_000_000)
    dropout: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.d_model % self.heads:
            raise ValueError(f"d_model={self.d_model} must be a multiple of heads={self.heads}")
        return self

    def memory(self, dim: int, lists: int, length: int) -> int:
        """Return the bytes that a training on `lists` of `length` embeddings of width `dim` takes at least.

        Weights count five times: gradient, AdamW's two moments, the best so far. What a layer keeps of each candidate
        for its gradient is half as wide on a GPU.
        """
        weights = self.layers * (4 * self.d_model**2 + 2 * self.d_model * self.d_ff) + dim * self.d_model
        kept = min(self.batch_size, lists) * length * self.layers * (4 * self.d_model + self.d_ff)
        return 4 * 5 * weights + 2 * kept


def spread_of(tensors: ListTensors) -> float:
    """Return the mean over lists of the scores' standard deviation: the unit in which margins are of order 1."""
    valid, score = (tensors.rows >= 0).cpu().numpy(), tensors.cosine.cpu().numpy()
    count = np.maximum(valid.sum(axis=1), 1)
    centre = np.where(valid, score, 0).sum(axis=1) / count
    squares = np.where(valid, (score - centre[:, None]) ** 2, 0).sum(axis=1) / count
    return max(float(np.sqrt(squares).mean()), 1e-4)


class ListTrained(Scorer):
    """A network that is trained on lists with one of the losses.

    Attributes
    ----------
    network : Network or None
        None before `fit`.
    """

    Settings: ClassVar[type[ListTrainedSettings]]
    settings: ListTrainedSettings

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self.network: Network | None = None
        self.network_of: Any = None
        self.like: int | None = None  # the lists of a fit that was validated: more must not make another network
        self.lists = 0

    @abstractmethod
    def network_config(self, dim: int, spread: float, lists: int) -> Any:
        """Return the network that the settings describe, a dataclass, for that many training lists."""

    @abstractmethod
    def build(self, config: Any) -> Network:
        """Make the untrained network."""

    def read_config(self, config: dict[str, Any]) -> Any:
        """Return what `asdict` made of a network's sizes."""
        return RankerConfig(**{**config, "blocks": tuple(config["blocks"])})

    def start(self, data: EmbeddingSet, direction: Direction, lists: ListTensors, seed: int) -> None:
        """Set what the network knows before its first step; nothing by default."""

    def loss(self) -> Loss:
        """Return the loss that the settings name."""
        return losses.get(self.settings.loss, **self.settings.loss_params)

    def fit(
        self,
        data: EmbeddingSet,
        direction: Direction,
        *,
        lists: ListTensors | None = None,
        validation: HeldOut | None = None,
        seed: int = 0,
        watch: Watch | None = None,
    ) -> Self:
        """Train the network on the lists; see `Scorer.fit`.

        Raises
        ------
        UserError
            If no list holds both a relevant and a non-relevant candidate, the loss becomes NaN or infinite, or a
            checkpoint belongs to another training.
        """
        if lists is None:
            raise UserError(f"scorer={self.name} is trained on lists. Mine some with `rank-xmodal mine`.")
        if not bool(lists.instructive.any()):
            raise UserError(
                f"{data.root or data.name}: no {direction} training list holds both a relevant and a non-relevant "
                "candidate. Mine lists with --protocol clean, or give the train split more items."
            )
        device = lists.rows.device
        identity = {
            "settings": self.settings.model_dump(mode="json"),
            "fingerprint": data.fingerprint,
            "direction": direction,
            "lists": lists.digest,
        }
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            self.lists = len(lists) if self.like is None else self.like
            self.network_of = self.network_config(data.dim, spread_of(lists), self.lists)
            check_memory(
                self.settings.memory(data.dim, *lists.rows.shape), device, "a network of this d_model, d_ff and layers"
            )
            self.network = self.build(self.network_of).to(device)
            self.start(data, direction, lists, seed)
            if not any(True for _ in self.network.parameters()):
                self.history = [untrained(self.network, self.loss(), lists, validation)]
                (watch or Watch()).on_epoch(self.history[0])
                return self
            progress = train(
                self.network,
                self.loss(),
                lists,
                self.settings,
                seed=seed,
                identity=identity,
                held_out=validation,
                watch=watch,
            )
        self.history, self.best_epoch = progress.history, progress.best_epoch
        return self

    def refitting(self) -> Self:
        """Return one that is not fitted, for the same network; its epochs are for `Watch` to stop."""
        again = type(self)(self.settings)
        again.like = self.lists
        return again

    def _fitted(self) -> Network:
        if self.network is None:
            raise RuntimeError(f"{type(self).__name__}: fit comes before score.")
        return self.network

    @torch.no_grad()
    def project(self, candidates: torch.Tensor) -> torch.Tensor | None:
        """Return what the network makes of each candidate alone."""
        return self._fitted().project(candidates)

    def score(self, batch: ListBatch) -> torch.Tensor:
        """Return the network's scores, (B, L) float32.

        Raises
        ------
        RuntimeError
            If it was not fitted.
        """
        return self._fitted().score(batch)

    @property
    def config(self) -> dict[str, Any]:
        """The network's sizes."""
        return {} if self.network_of is None else asdict(self.network_of)

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """The network's weights."""
        return {} if self.network is None else self.network.state_dict()

    def load(self, config: dict[str, Any], state: dict[str, torch.Tensor]) -> Self:
        """Take over a network; see `Scorer.load`."""
        self.network_of = self.read_config(config)
        self.network = self.build(self.network_of)
        self.network.load_state_dict(state)
        self.network.eval()
        return self

    def to(self, device: torch.device) -> Self:
        """Move the network."""
        if self.network is not None:
            self.network.to(device)
        return self
