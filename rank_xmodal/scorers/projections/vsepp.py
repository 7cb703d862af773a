"""VSE++: every pair should beat its hardest negative of the batch by a margin."""

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
    return max_of_hinges(F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T, match, margin)


def max_of_hinges(similarity: torch.Tensor, match: torch.Tensor, margin: float = MARGIN) -> torch.Tensor:
    """Return the max of hinges of a batch of pairs, a scalar, whatever their similarity; see `vsepp_loss`.

    Parameters
    ----------
    similarity, match : Tensor (B, B)
        Pair i stands on the diagonal.
    """
    own = similarity.diagonal()
    negative = similarity.masked_fill(match, -torch.inf)
    across, down = negative.amax(dim=1), negative.amax(dim=0)
    return ((margin + across - own).relu() + (margin + down - own).relu()).mean()


class VSEPPSettings(PairSettings):
    """The paper's: margin 0.2; Adam with 2e-4, a tenth of it after 15 of 30 epochs; 128 pairs."""

    margin: float = Field(MARGIN, ge=0)


class VSEPP(Projection):
    """``score = cosine(W x + b, V z + c)``, the two affine maps trained with `vsepp_loss` from the identity.

    References
    ----------
    Faghri et al.: VSE++: Improving Visual-Semantic Embeddings with Hard Negatives, BMVC 2018, arXiv 1707.05612.
    """

    name = "vsepp"
    label = "VSE++"
    paper = (
        "Faghri et al.: VSE++: Improving Visual-Semantic Embeddings with Hard Negatives, BMVC 2018, arXiv:1707.05612"
    )
    Settings: ClassVar[type[VSEPPSettings]] = VSEPPSettings
    settings: VSEPPSettings

    def solve(self, pairs: TrainingPairs, validation: Validation | None, seed: int, watch: Watch) -> Maps:
        """Train the maps; see `Projection.solve`."""
        margin = self.settings.margin
        maps, self.history, self.best_epoch = train(
            identity_maps(self.dims[0], pairs.images.device),
            pairs,
            lambda image, text, match: vsepp_loss(image, text, match, margin),
            self.settings,
            seed=seed,
            validation=validation,
            watch=watch,
        )
        return maps

    def blank(self, config: dict[str, Any]) -> Maps:
        """Return two affine maps (d -> d)."""
        return blank_linear_maps(config["dim"])
