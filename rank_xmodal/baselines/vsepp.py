"""VSE++: every pair should beat its hardest negative of the batch by a margin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from rank_xmodal.baselines._projected import Projected, TrainingPairs, Validation, identity_maps, train
from rank_xmodal.baselines._settings import check_counts, check_numbers
from rank_xmodal.embedding_set import Direction, EmbeddingSet, check_direction

if TYPE_CHECKING:
    from rank_xmodal.evaluation import FirstStage

MARGIN = 0.2


def vsepp_loss(image: torch.Tensor, text: torch.Tensor, match: torch.Tensor, margin: float = MARGIN) -> torch.Tensor:
    """Return the max of hinges of a batch, a scalar.

    ``1/B sum_i [a + max_j s(i, t_j) - s(i, t_i)]_+ + [a + max_j s(i_j, t_i) - s(i, t_i)]_+`` with s the cosine, j
    over what doesn't match: the other captions of an image are never its negatives, nor the other images of a caption.
    A row without a negative adds 0. The paper sums where this takes the mean, which Adam doesn't feel.

    Parameters
    ----------
    image, text : Tensor (B, k)
        Pair i is (image i, text i).
    match : Tensor (B, B), bool
        Image i belongs to text j.
    """
    cosine = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    own = cosine.diagonal()
    negative = cosine.masked_fill(match, -torch.inf)
    hardest_text, hardest_image = negative.amax(dim=1), negative.amax(dim=0)
    return ((margin + hardest_text - own).relu() + (margin + hardest_image - own).relu()).mean()


@dataclass
class VSEPP(Projected):
    """``score = cosine(W x + b, V z + c)``, the two affine maps trained with `vsepp_loss`.

    Faghri et al.: VSE++: Improving Visual-Semantic Embeddings with Hard Negatives, BMVC 2018, arXiv 1707.05612.

    Attributes
    ----------
    margin, lr, batch_size, epochs, drop_after
        The paper's: 0.2; Adam with 2e-4, a tenth of it after 15 of 30 epochs; 128 pairs.
    device : str

    Raises
    ------
    UserError
        If a setting is out of its range; names it and the range.
    """

    margin: float = MARGIN
    lr: float = 2e-4
    batch_size: int = 128
    epochs: int = 30
    drop_after: int = 15
    device: str = "cpu"

    name = "vsepp"
    paper = (
        "Faghri et al.: VSE++: Improving Visual-Semantic Embeddings with Hard Negatives, BMVC 2018, arXiv:1707.05612"
    )

    def __post_init__(self) -> None:
        check_counts(self, "batch_size")
        check_counts(self, "epochs", "drop_after", least=0)
        check_numbers(self, "lr")
        check_numbers(self, "margin", zero=True)

    def fit(
        self, data: EmbeddingSet, direction: Direction, *, seed: int = 0, validation: FirstStage | None = None
    ) -> VSEPP:
        """Train on the training pairs, from the identity; a validation chooses the epoch (`best_epoch`).

        Raises
        ------
        UserError
            If the direction is unknown, train holds no pair or the loss is not finite.
        """
        self.direction = check_direction(direction)
        self.maps, self.best_epoch = train(
            identity_maps(data.dim, self.device),
            TrainingPairs.gather(data, self.device),
            lambda image, text, match: vsepp_loss(image, text, match, self.margin),
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            seed=seed,
            drop_after=self.drop_after,
            validation=Validation(data, direction, validation, self.device) if validation else None,
        )
        return self
