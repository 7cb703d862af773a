"""Cross-modal projection matching: the softmax of projections should be the distribution of matches."""

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

EPSILON = 1e-8  # the paper's, for a logarithm of q = 0


def cmpm_loss(image: torch.Tensor, text: torch.Tensor, match: torch.Tensor, epsilon: float = EPSILON) -> torch.Tensor:
    """Return the CMPM loss of a batch, a scalar: that of images to texts plus that of texts to images.

    ``1/B sum_i sum_j p_ij log(p_ij / (q_ij + epsilon))`` with ``p_ij = softmax_j(x_i . z_j / |z_j|)`` and
    ``q_ij = y_ij / sum_k y_ik``; in the other direction x and z change places. log p comes from `log_softmax`, so p
    needs no epsilon of its own; q does, being 0 wherever nothing matches.

    Parameters
    ----------
    image, text : Tensor (B, k)
        Projections, not normalised: their length is the sharpness of the softmax.
    match : Tensor (B, B), bool
        y_ij: image i belongs to text j. Every row and column has a match.
    """
    return _one_way(image, text, match, epsilon) + _one_way(text, image, match.T, epsilon)


def _one_way(x: torch.Tensor, z: torch.Tensor, match: torch.Tensor, epsilon: float) -> torch.Tensor:
    log_p = (x @ F.normalize(z, dim=-1).T).log_softmax(dim=-1)
    y = match.to(x.dtype)
    q = y / y.sum(dim=-1, keepdim=True)
    return (log_p.exp() * (log_p - (q + epsilon).log())).sum(dim=-1).mean()


@dataclass
class CMPM(Projected):
    """``score = cosine(W x + b, V z + c)``, the two affine maps trained with `cmpm_loss`; no CMPC loss beside it.

    Zhang and Lu: Deep Cross-Modal Projection Learning for Image-Text Matching, ECCV 2018.

    Attributes
    ----------
    lr : float
        The paper's, with Adam.
    batch_size, epochs, drop_after : int
        Those of VSE++: the paper's own go with networks that are trained whole.
    scale : float
        What the unit embeddings are multiplied by in the loss, in place of the length of the paper's features: CLIP's
        own softmax is over 100 times the cosine, and at 1 it would be flat for long.
    device : str

    Raises
    ------
    UserError
        If a setting is out of its range; names it and the range.
    """

    lr: float = 2e-4
    batch_size: int = 128
    epochs: int = 30
    drop_after: int = 15
    scale: float = 100.0
    device: str = "cpu"

    name = "cmpm"
    paper = "Zhang, Lu: Deep Cross-Modal Projection Learning for Image-Text Matching, ECCV 2018"

    def __post_init__(self) -> None:
        check_counts(self, "batch_size")
        check_counts(self, "epochs", "drop_after", least=0)
        check_numbers(self, "lr", "scale")

    def fit(
        self, data: EmbeddingSet, direction: Direction, *, seed: int = 0, validation: FirstStage | None = None
    ) -> CMPM:
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
            lambda image, text, match: cmpm_loss(self.scale * image, self.scale * text, match),
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            seed=seed,
            drop_after=self.drop_after,
            validation=Validation(data, direction, validation, self.device) if validation else None,
        )
        return self
