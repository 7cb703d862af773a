"""Settings chosen by class-level MAP on the split val, one after another: what closed forms for labelled sets share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.devices import pick_device
from rank_xmodal.errors import UserError
from rank_xmodal.lists.list_tensors import ListTensors
from rank_xmodal.lists.scoring import HeldOut
from rank_xmodal.scorers.projections.base import Projection
from rank_xmodal.scorers.projections.class_validation import ClassValidation
from rank_xmodal.scorers.projections.fit import Validation
from rank_xmodal.scorers.projections.maps import Maps, apply
from rank_xmodal.scorers.projections.pairs import TrainingPairs
from rank_xmodal.training.watch import Watch

Solver = Callable[[Mapping[str, Any]], Maps]


class ClassChosen(Projection):
    """A projection in closed form, whose settings that are None are chosen by MAP over the split val's whole gallery.

    A subclass names them with the values to try, the first of which is taken where there is no validation (`options`),
    and returns what maps them to maps (`solver`). They are chosen one after another, in their order, each with the
    others as they stand: nothing but MAP is learnt from val.

    Attributes
    ----------
    chosen : dict of str to float or int
        What was chosen of the settings that were None.
    values : dict of str to float or int
        All that the maps were solved with: one that is fitted again was given what the first one chose.
    """

    learns_classes = True

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self.chosen: dict[str, Any] = {}
        self.values: dict[str, Any] = {}
        self._judge: ClassValidation | None = None

    @abstractmethod
    def options(self, pairs: TrainingPairs) -> dict[str, tuple[Any, ...]]:
        """Return the values to try of each setting that the method reads; the first is for want of a validation."""

    @abstractmethod
    def solver(self, pairs: TrainingPairs, seed: int) -> Solver:
        """Return a function from values of the settings in `options` to maps; what they share it computes once."""

    @property
    def takes_classes(self) -> bool:
        """Whether it can't be fitted without classes."""
        return True

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
        """Learn the maps; see `Scorer.fit`. Settings are chosen on the split val of a labelled set, not on lists.

        Raises
        ------
        UserError
            If train holds no pair, a feature is not finite; or the method needs classes and there are none, only one,
            or more of them than items.
        """
        self._judge = ClassValidation.where_there_is_one(data, pick_device(self.settings.device))
        try:
            return super().fit(data, direction, seed=seed, watch=watch)
        finally:
            self._judge = None

    def solve(self, pairs: TrainingPairs, validation: Validation | None, seed: int, watch: Watch) -> Maps:
        """Choose the settings that are None and solve with them."""
        check_pairs(pairs, f"scorer={self.name}", self.takes_classes)
        options, solver = self.options(pairs), self.solver(pairs, seed)
        given = {key: getattr(self.settings, key) for key in options}
        open_to_choice = [key for key, value in given.items() if value is None]
        values = {**given, **{key: options[key][0] for key in open_to_choice}}
        for key in open_to_choice if self._judge is not None else ():
            found = {value: self._map(solver({**values, key: value})) for value in options[key]}
            values[key] = max(found, key=lambda value: found[value])
        self.chosen, self.values = {key: values[key] for key in open_to_choice}, values
        return solver(values)

    def _map(self, maps: Maps) -> float:
        judge = self._judge
        assert judge is not None
        images, texts = apply(maps[0], judge.images), apply(maps[1], judge.texts)
        return judge.map(self.as_query(images), self.as_candidate(texts))

    def refitting(self) -> Self:
        """Return one that is not fitted, with the settings that this one chose."""
        return type(self)(self.settings.model_copy(update=self.chosen))

    @property
    def config(self) -> dict[str, Any]:
        """The direction, the shapes, and what it was solved with."""
        shapes = {key: list(value.shape) for key, value in self.state.items()}
        return {**super().config, "values": self.values, "shapes": shapes}

    def load(self, config: dict[str, Any], state: dict[str, Tensor]) -> Self:
        """Take over maps and what they were solved with; see `Scorer.load`."""
        self.values = dict(config["values"])
        return super().load(config, state)


def check_pairs(pairs: TrainingPairs, where: str, classes: bool) -> None:
    """Check that closed forms can be solved on these pairs.

    Raises
    ------
    UserError
        If a feature is not finite; where `classes`, if there are none, only one on a side, or more than items.
    """
    for side, table, rows in (("image", pairs.images, pairs.image_rows), ("text", pairs.texts, pairs.text_rows)):
        finite = torch.isfinite(table).all(1)
        if not finite.all():
            row = int(rows[int((~finite).nonzero()[0])])
            raise UserError(
                f"{where}: the features of {side} row {row} are NaN or infinite. Make them again or leave it out."
            )
    if not classes:
        return
    for side, labels in (("image", pairs.image_labels), ("text", pairs.text_labels)):
        if labels is None:
            raise UserError(
                f"{where}: needs classes and the set has none. Give the captions table a column 'labels' and make the "
                "set again."
            )
        known = int((labels.sum(0) > 0).sum())
        if known < 2:
            raise UserError(
                f"{where}: the {side}s of the split train are all of {known} class. It takes two or more: check the "
                "column 'labels'."
            )
        if len(labels) < known:
            raise UserError(
                f"{where}: {len(labels)} {side}s of the split train for {known} classes. It takes at least as many "
                "items as classes: give it more, or coarser classes."
            )


def class_labels(pairs: TrainingPairs) -> tuple[Tensor, Tensor]:
    """Return the classes of images and of texts, (n, C) and (m, C) float64; after `check_pairs`."""
    assert pairs.image_labels is not None
    assert pairs.text_labels is not None
    return pairs.image_labels.double(), pairs.text_labels.double()


def shares(labels: Tensor) -> Tensor:
    """Return (n, C) classes whose rows sum to 1: an item of several classes belongs to each in equal parts."""
    return labels / labels.sum(1, keepdim=True).clamp(min=1)
