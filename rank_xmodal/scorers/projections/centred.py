"""Centred cosine: each modality less its mean, for the two lie apart in CLIP's space."""

from __future__ import annotations

from typing import Any

import torch

from rank_xmodal.scorers.projections.base import Projection
from rank_xmodal.scorers.projections.fit import Validation
from rank_xmodal.scorers.projections.maps import Maps, Shifted
from rank_xmodal.scorers.projections.pairs import TrainingPairs
from rank_xmodal.training.watch import Watch


class Centred(Projection):
    """``score = cosine(x - mean of x, z - mean of z)``, the means over the training pairs' images and texts.

    The means know nothing of which image belongs to which text.

    References
    ----------
    Liang et al.: Mind the Gap: Understanding the Modality Gap in Multi-modal Contrastive Representation Learning,
    NeurIPS 2022, arXiv 2203.02053. As a correction of hubness: Suzuki et al.: Centering Similarity Measures to Reduce
    Hubs, EMNLP 2013.
    """

    name = "centred"
    label = "centred cosine"
    paper = "Suzuki et al.: Centering Similarity Measures to Reduce Hubs, EMNLP 2013"

    @property
    def fitted_on_pairs(self) -> bool:
        """No: two means."""
        return False

    def solve(self, pairs: TrainingPairs, validation: Validation | None, seed: int, watch: Watch) -> Maps:
        """Take the means; without chance, so `seed` changes nothing."""
        return Shifted(pairs.images.double().mean(0)), Shifted(pairs.texts.double().mean(0))

    def blank(self, config: dict[str, Any]) -> Maps:
        """Return two shifts."""
        return Shifted(torch.zeros(config["dim"])), Shifted(torch.zeros(config["dim"]))
