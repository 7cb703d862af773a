"""Cross-modal projection matching: the softmax of projections should be the distribution of matches."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field

from rank_xmodal.scorers.projections.base import Projection
from rank_xmodal.scorers.projections.fit import PairSettings, Validation, train
from rank_xmodal.scorers.projections.maps import Maps, blank_linear_maps, identity_maps
from rank_xmodal.scorers.projections.pairs import TrainingPairs
from rank_xmodal.training.watch import Watch

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


class CMPMSettings(PairSettings):
    """The paper's learning rate, with Adam; the rest is VSE++'s: the paper's own go with networks trained whole."""

    scale: float = Field(
        100.0,
        gt=0,
        description="length of the embeddings in the loss, where the paper has its features' own: CLIP's own softmax "
        "is over 100 times the cosine, and at 1 it would be flat for long",
    )


class CMPM(Projection):
    """``score = cosine(W x + b, V z + c)``, the two affine maps trained with `cmpm_loss`; no CMPC loss beside it.

    References
    ----------
    Zhang and Lu: Deep Cross-Modal Projection Learning for Image-Text Matching, ECCV 2018.
    """

    name = "cmpm"
    label = "CMPM"
    paper = "Zhang, Lu: Deep Cross-Modal Projection Learning for Image-Text Matching, ECCV 2018"
    Settings: ClassVar[type[CMPMSettings]] = CMPMSettings
    settings: CMPMSettings

    def solve(self, pairs: TrainingPairs, validation: Validation | None, seed: int, watch: Watch) -> Maps:
        """Train the maps from the identity; see `Projection.solve`."""
        scale = self.settings.scale
        maps, self.history, self.best_epoch = train(
            identity_maps(self.dims[0], pairs.images.device),
            pairs,
            lambda image, text, match: cmpm_loss(scale * image, scale * text, match),
            self.settings,
            seed=seed,
            validation=validation,
            watch=watch,
        )
        return maps

    def blank(self, config: dict[str, Any]) -> Maps:
        """Return two affine maps (d -> d)."""
        return blank_linear_maps(config["dim"])
