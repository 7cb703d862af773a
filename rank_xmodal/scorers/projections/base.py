"""What the projections share: a map of each side into a space where the cosine says how well two items match."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from typing_extensions import Self

from rank_xmodal.data.embedding_set import Direction, EmbeddingSet, check_direction
from rank_xmodal.devices import pick_device
from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.list_tensors import ListTensors
from rank_xmodal.lists.scoring import HeldOut
from rank_xmodal.retrieval.retriever import Space
from rank_xmodal.scorers.base import Scorer
from rank_xmodal.scorers.projections.fit import Validation
from rank_xmodal.scorers.projections.maps import BLOCK, Maps
from rank_xmodal.scorers.projections.pairs import TrainingPairs
from rank_xmodal.training.watch import Watch


class Projection(Scorer):
    """``score = f(q) . g(c)``, by default of vectors of length 1: the cosine.

    A subclass finds the maps (`solve`) and makes untrained ones of the right shape (`blank`); where the product is no
    cosine it says what becomes of a mapped query and a mapped candidate (`as_query`, `as_candidate`).

    Attributes
    ----------
    maps : (nn.Module, nn.Module) or None
        Of images and of texts, (..., d) -> (..., k); None before `fit`.
    direction : "t2i" or "i2t"
        As given to `fit`.
    dims : (int, int)
        Width of images and of texts.
    """

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self.maps: Maps | None = None
        self.direction: Direction = "t2i"
        self.dims = (0, 0)

    def solve(self, pairs: TrainingPairs, validation: Validation | None, seed: int, watch: Watch) -> Maps:
        """Find the maps on the training pairs; a validation chooses the epoch or a setting.

        Raises
        ------
        UserError
            If nothing can be found.
        """
        raise NotImplementedError

    def blank(self, config: dict[str, Any]) -> Maps:
        """Return maps whose tensors are still to be loaded."""
        raise NotImplementedError

    def as_query(self, mapped: torch.Tensor) -> torch.Tensor:
        """Return a mapped query (..., k) as the vector to multiply."""
        return F.normalize(mapped, dim=-1)

    def as_candidate(self, mapped: torch.Tensor) -> torch.Tensor:
        """Return a mapped candidate (..., k) as the vector to multiply."""
        return F.normalize(mapped, dim=-1)

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
        """Learn the maps from the training pairs; see `Scorer.fit`. Training lists are of no use to it.

        Raises
        ------
        UserError
            If the direction is unknown, or train holds no pair.
        """
        self.direction, self.dims = check_direction(direction), data.dims
        device = pick_device(self.settings.device)
        held_out = Validation(data, direction, validation.gallery, device) if validation is not None else None
        maps = self.solve(TrainingPairs.gather(data, device), held_out, seed, watch or Watch())
        for module in maps:
            module.requires_grad_(False)
        self.maps = maps
        return self

    def refitting(self) -> Self:
        """Return one that is not fitted, to be trained up to the epoch that this one kept."""
        if self.best_epoch is None:
            return type(self)(self.settings)
        return type(self)(self.settings.model_copy(update={"epochs": self.best_epoch}))

    def _sides(self) -> tuple[nn.Module, nn.Module]:
        """Return the maps of queries and of candidates."""
        if self.maps is None:
            raise RuntimeError(f"{type(self).__name__}: fit comes before score.")
        image, text = self.maps
        return (text, image) if self.direction == "t2i" else (image, text)

    @property
    def space(self) -> Space | None:
        """Itself, once it is fitted."""
        return self if self.maps is not None else None

    def map_queries(self, embeddings: np.ndarray) -> np.ndarray:
        """Return (n, d) embeddings of queries in the common space, (n, k) float32."""
        return _mapped(self._sides()[0], self.as_query, embeddings)

    def map_candidates(self, embeddings: np.ndarray) -> np.ndarray:
        """Return (m, d) embeddings of candidates in the common space, (m, k) float32."""
        return _mapped(self._sides()[1], self.as_candidate, embeddings)

    @torch.no_grad()
    def project(self, candidates: torch.Tensor) -> torch.Tensor:
        """Return the candidates in the common space, (m, d) of any float -> (m, k) float32."""
        module = self._sides()[1].to(candidates.device)
        return torch.cat([self.as_candidate(module(block.float())) for block in candidates.split(BLOCK)])

    @torch.no_grad()
    def score(self, batch: ListBatch) -> torch.Tensor:
        """Return ``f(q) . g(c)``, (B, L) float32, on the batch's device; a cosine with a zero vector is 0.

        Raises
        ------
        RuntimeError
            If it was not fitted.
        """
        asking, ranked = (module.to(batch.query.device) for module in self._sides())
        query, known = self.as_query(asking(batch.query)), batch.projected
        candidates = self.as_candidate(ranked(batch.candidates)) if known is None else known
        return torch.einsum("bk,blk->bl", query, candidates).float()

    @property
    def config(self) -> dict[str, Any]:
        """The direction and the shapes."""
        image, text = self.dims
        return {"direction": self.direction, "dim": image, **({} if image == text else {"text_dim": text})}

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """The tensors of both maps."""
        named = zip(("image", "text"), self.maps or (), strict=False)
        return {f"{side}.{key}": value for side, module in named for key, value in module.state_dict().items()}

    def load(self, config: dict[str, Any], state: dict[str, torch.Tensor]) -> Self:
        """Take over maps; see `Scorer.load`."""
        self.direction = check_direction(config["direction"])
        self.dims = (int(config["dim"]), int(config.get("text_dim", config["dim"])))
        maps = self.blank(config)
        for side, module in zip(("image", "text"), maps, strict=True):
            prefix = f"{side}."
            module.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
            module.requires_grad_(False)
        self.maps = maps
        return self

    def to(self, device: torch.device) -> Self:
        """Move both maps."""
        for module in self.maps or ():
            module.to(device)
        return self


def _mapped(module: nn.Module, last: Callable[[torch.Tensor], torch.Tensor], embeddings: np.ndarray) -> np.ndarray:
    module = module.cpu()
    parts = []
    with torch.no_grad():
        for start in range(0, len(embeddings), BLOCK):
            block = torch.from_numpy(np.array(embeddings[start : start + BLOCK], dtype=np.float32))
            parts.append(last(module(block)).numpy())
    return np.concatenate(parts)
