"""What every baseline offers: fit on a set's training split, then score lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from rank_xmodal.embedding_set import Direction, EmbeddingSet, check_direction
from rank_xmodal.ranker import ListBatch

if TYPE_CHECKING:  # evaluation itself compares with a baseline: at run time this import would be a circle
    from rank_xmodal.evaluation import FirstStage


class Baseline(Protocol):
    """A way to score the candidates of a list, to compare a ranker with.

    Attributes
    ----------
    name : str
        Its key in `BASELINES`.
    paper : str
        Where it comes from.
    """

    name: str
    paper: str

    def fit(
        self, data: EmbeddingSet, direction: Direction, *, seed: int = 0, validation: FirstStage | None = None
    ) -> Baseline:
        """Learn from the pairs of the split train alone and return itself, ready to score.

        Parameters
        ----------
        data : EmbeddingSet
        direction : "t2i" or "i2t"
            Which side asks.
        seed : int
            Same seed, same scores.
        validation : FirstStage or None
            Lists of a validation split in this direction. Where given, the epoch or a setting is the one with the
            highest MRR on them; nothing else is learnt from them.

        Raises
        ------
        UserError
            If the direction is unknown or there is nothing to learn from.
        """
        ...

    def score(self, batch: ListBatch) -> torch.Tensor:
        """Return a score for every place, (B, L) float32; higher is better, padding's is meaningless.

        Raises
        ------
        RuntimeError
            If it has to be fitted and was not.
        """
        ...


class Unfitted:
    """The `fit` of a baseline that has nothing to learn."""

    def fit(
        self, data: EmbeddingSet, direction: Direction, *, seed: int = 0, validation: FirstStage | None = None
    ) -> Baseline:
        """Check the direction and return itself.

        Raises
        ------
        UserError
            If the direction is unknown.
        """
        check_direction(direction)
        return self  # type: ignore[return-value]  # score, name and paper are the subclass's
