"""What projections trained on classes share: batches with classes, and the epoch chosen by MAP on the split val."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import Self

from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.devices import pick_device
from rank_xmodal.errors import UserError
from rank_xmodal.lists.list_tensors import ListTensors
from rank_xmodal.lists.scoring import HeldOut
from rank_xmodal.scorers.projections.base import Projection
from rank_xmodal.scorers.projections.class_validation import ClassValidation
from rank_xmodal.scorers.projections.fit import Judge, PairSettings, Validation, train_steps, unchanged
from rank_xmodal.scorers.projections.maps import Maps, apply
from rank_xmodal.scorers.projections.pairs import TrainingPairs
from rank_xmodal.training.watch import Watch


@dataclass(frozen=True)
class Batch:
    """A batch of pairs as a loss sees it.

    Attributes
    ----------
    images, texts : Tensor (B, d) and (B, e), float32
        Features as they came.
    image_labels, text_labels : Tensor (B, C), float32
        1 for each class of an item; without columns where the set has no classes.
    match : Tensor (B, B), bool
        Image i and text j share a class; where the set has none, they belong together. True on the diagonal.
    """

    images: Tensor
    texts: Tensor
    image_labels: Tensor
    text_labels: Tensor
    match: Tensor

    @classmethod
    def of(cls, pairs: TrainingPairs, index: np.ndarray) -> Batch:
        """Take the pairs `index` (B,)."""
        images, texts = pairs.embeddings(index)
        if pairs.image_labels is None or pairs.text_labels is None:
            none = images.new_zeros(len(index), 0)
            return cls(images, texts, none, none, pairs.match(index))
        image, text = (torch.from_numpy(rows[index]).to(images.device) for rows in (pairs.image, pairs.text))
        image_labels, text_labels = pairs.image_labels[image], pairs.text_labels[text]
        match = image_labels @ text_labels.T > 0
        return cls(images, texts, image_labels, text_labels, match.fill_diagonal_(True))


Objective = Callable[[Tensor, Tensor, Batch], Tensor]
"""(images (B, k), texts (B, k), batch) -> the loss, a scalar."""


class ClassSettings(PairSettings):
    """How networks of two layers are trained on pairs with classes.

    lr, epochs and weight_decay were chosen on cuts of the training splits of two sets of 1,500 and 2,173 pairs.
    """

    hidden: int = Field(512, ge=1, le=65_536, description="units of the hidden layer of a side")
    lr: float = Field(3e-3, gt=0, description="Adam's")
    epochs: int = Field(100, ge=0)
    drop_after: int | None = Field(None, ge=0, description="epoch after which the learning rate is a tenth")


class ClassTrained(Projection):
    """A projection trained in epochs on pairs that may have classes.

    Of a labelled set with a split val, that split chooses the epoch by `ClassValidation`: MAP over its gallery by
    shared classes. Of a set without classes the validation given to `fit` does, by MRR. Without either the last epoch
    is kept. The split test is never looked at.
    """

    settings: ClassSettings
    _by_class: ClassValidation | None = None

    learns_classes = True

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
        """Learn the maps from the training pairs; see `Projection.fit`."""
        self._by_class = ClassValidation.where_there_is_one(data, pick_device(self.settings.device))
        try:
            return super().fit(data, direction, lists=lists, validation=validation, seed=seed, watch=watch)
        finally:
            self._by_class = None  # it holds the features of val

    def learn(
        self,
        maps: Maps,
        pairs: TrainingPairs,
        objective: Objective,
        validation: Validation | None,
        seed: int,
        watch: Watch,
        finish: Callable[[Maps], Maps] = unchanged,
    ) -> Maps:
        """Train maps, and the objective's own parameters, and return the maps of the epoch that is kept."""
        image, text = maps

        def step(index: np.ndarray) -> Tensor:
            batch = Batch.of(pairs, index)
            return objective(image(batch.images), text(batch.texts), batch)

        kept, self.history, self.best_epoch = train_steps(
            maps,
            pairs,
            step,
            self.settings,
            seed=seed,
            beside=[objective] if isinstance(objective, nn.Module) else [],
            finish=finish,
            judge=self._judge(validation),
            watch=watch,
        )
        return kept

    def _judge(self, validation: Validation | None) -> Judge | None:
        known = self._by_class

        def used(maps: Maps) -> Maps:
            image, text = maps
            return _Used(image, self.as_candidate), _Used(text, self.as_candidate)

        if known is not None:
            sides = (known.images, known.texts)
            return ("val_MAP", lambda maps: known.map(*(apply(*side) for side in zip(used(maps), sides, strict=True))))
        return ("val_MRR", lambda maps: validation.mrr(used(maps))) if validation else None

    @property
    def config(self) -> dict[str, Any]:
        """The direction, the shapes and the width of the hidden layer."""
        return {**super().config, "hidden": self.settings.hidden}


class _Used(nn.Module):
    """A map with what becomes of its vectors in use, a code's signs for one: an epoch is judged by what it will do."""

    def __init__(self, below: nn.Module, last: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.below, self.last = below, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.below(x))


def class_count(pairs: TrainingPairs, asking: str) -> int:
    """Return the number of classes of the training pairs.

    Parameters
    ----------
    pairs : TrainingPairs
    asking : str
        What learns from them, for the message.

    Raises
    ------
    UserError
        If they have no classes, or only one, of which nothing can be told apart.
    """
    labels = pairs.image_labels
    if labels is None:
        raise UserError(
            f"{asking} learns from classes, and the set has none. Give images and texts a column 'labels', or take an "
            "objective that needs none: scorer=mlp objective=contrastive."
        )
    if labels.shape[1] < 2:
        raise UserError(
            f"{asking} learns to tell classes apart, and the split train has one class only. Check the column 'labels'."
        )
    return labels.shape[1]
