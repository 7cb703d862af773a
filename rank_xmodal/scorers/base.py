"""One interface for whatever scores a candidate list."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from typing_extensions import Self

from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.lists.bags import Bag
from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.list_tensors import ListTensors
from rank_xmodal.lists.needs import Needs
from rank_xmodal.lists.scoring import HeldOut
from rank_xmodal.retrieval.retriever import Space
from rank_xmodal.scorers.settings import ScorerSettings
from rank_xmodal.training.watch import Watch


class Scorer(ABC):
    """Scores the candidates of a list.

    A subclass says what it is and what it needs, and implements `score`; `fit`, `project`, `config`, `state` and
    `load` where it has something to learn, to prepare or to keep.

    Parameters
    ----------
    settings : ScorerSettings or None
        Its own `Settings`; or, by keyword, values of them.

    Attributes
    ----------
    name : str
        Its name in the registry, on the command line and in files.
    label : str
        What tables and plots call it.
    paper : str
        Where it comes from.
    Settings : type
        What can be set, with types, limits and defaults.
    takes_unaligned : bool
        Whether it does without a space that images and texts share already: it makes one, or looks at its base alone.
    learns_classes : bool
        Whether the classes of items decide what it learns or chooses.
    space : Space or None
        Where it compares both sides, if it maps them into a space: then it can search a gallery itself, and another
        scorer can stand on it.
    history : list of dict
        One an epoch, where it was fitted in epochs; see `Watch`.
    best_epoch : int or None
        The epoch kept, where it was fitted in epochs; 0 is the start.

    Raises
    ------
    UserError
        If a setting is unknown or out of its range; names it and the range.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    paper: ClassVar[str]
    Settings: ClassVar[type[ScorerSettings]] = ScorerSettings
    takes_unaligned: ClassVar[bool] = False
    learns_classes: ClassVar[bool] = False

    def __init__(self, settings: ScorerSettings | None = None, **values: Any) -> None:
        self.settings = settings if settings is not None else self.Settings.checked(values, self.name)
        self.history: list[dict[str, float]] = []
        self.best_epoch: int | None = None

    @property
    def needs(self) -> Needs:
        """What it reads of a batch and of a set."""
        return Needs()

    @property
    def space(self) -> Space | None:
        """Where it compares both sides; None if it has no such space, or was not fitted."""
        return None

    @property
    def fitted_on_pairs(self) -> bool:
        """Whether its scores of training pairs look better than those of others, because it has seen them."""
        return type(self).fit is not Scorer.fit

    @property
    def out_of_fold(self) -> int | Literal["auto"] | None:
        """The inner folds that its training lists have to be scored by; None where no fit of its own scores them."""
        return None

    def fit_out_of_fold(
        self, knows: EmbeddingSet, direction: Direction, seed: int, device: torch.device
    ) -> Callable[[ListTensors], torch.Tensor]:
        """Fit on what `knows` has as train; return what gives lists of others features, (Q, L, F); where `out_of_fold`.

        Lists come later: tables of many candidates needn't stand in memory beside the fits.
        """
        raise NotImplementedError

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
        """Learn from the split train alone and return itself, ready to score.

        Parameters
        ----------
        data : EmbeddingSet
        direction : "t2i" or "i2t"
            Which side asks.
        lists : ListTensors or None
            Training lists; given where `needs` says lists.
        validation : HeldOut or None
            Lists of a validation split in this direction. Where given, the epoch or a setting is the one with the
            highest MRR on them; nothing else is learnt from them.
        seed : int
            Same seed, same scores.
        watch : Watch or None

        Raises
        ------
        UserError
            If there is nothing to learn from.
        """
        return self

    @property
    def parts(self) -> dict[str, Scorer]:
        """What it is made of that ranks well alone, fitted, by the name of a row: stands beside it in its report."""
        return {}

    def refitting(self) -> Self:
        """Return one that is not fitted and makes, without a validation, the choices that this one made with it."""
        return type(self)(self.settings)

    def project(self, candidates: torch.Tensor) -> torch.Tensor | None:
        """Return what can be made of each candidate once for all lists, (m, d) of any float -> (m, k), or None."""
        return None

    def project_tokens(self, tokens: Bag) -> tuple[Bag, ...]:
        """Return what can be made of the candidates' tokens once for all lists; asked where `needs` says tokens."""
        raise NotImplementedError

    @abstractmethod
    def score(self, batch: ListBatch) -> torch.Tensor:
        """Return a score for every place, (B, L) float32; higher is better, padding's is meaningless.

        Raises
        ------
        RuntimeError
            If it has to be fitted and was not.
        """

    @property
    def config(self) -> dict[str, Any]:
        """What `load` needs beside the settings and the tensors, as JSON can hold it."""
        return {}

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """Its tensors by name."""
        return {}

    def load(self, config: dict[str, Any], state: dict[str, torch.Tensor]) -> Self:
        """Take over what `config` and `state` gave, and return itself, ready to score.

        Raises
        ------
        KeyError, RuntimeError, TypeError or ValueError
            If they don't fit.
        """
        return self

    def to(self, device: torch.device) -> Self:
        """Move its tensors to a device and return itself."""
        return self
