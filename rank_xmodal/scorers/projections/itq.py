"""Codes that no network learns: rotated principal components, or random hyperplanes, of embeddings of one space."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from rank_xmodal.retrieval.quantisers import itq, lsh
from rank_xmodal.scorers.projections.codes import Codes
from rank_xmodal.scorers.projections.fit import Validation
from rank_xmodal.scorers.projections.maps import Centred, Maps
from rank_xmodal.scorers.projections.pairs import TrainingPairs
from rank_xmodal.scorers.settings import ScorerSettings
from rank_xmodal.training.watch import Watch

_BITS = 64


class ITQSettings(ScorerSettings):
    """How many bits, and what they are the signs of."""

    bits: int | None = Field(
        None, ge=1, le=4_096, description="length of a code; None: 64, or the width of an embedding where that is less"
    )
    rotation: Literal["itq", "lsh"] = Field(
        "itq", description="itq: of principal components, so that signs lose least; lsh: random hyperplanes"
    )


class ITQ(Codes):
    """``score = bits - 2 Hamming distance`` of ``sign((x - mean) W)``: one W for both sides, each less its own mean.

    Images and texts of CLIP lie in two cones; about one common mean most bits would only tell the sides apart. W is
    `quantisers.itq` of the training items of both sides, or `quantisers.lsh`.

    References
    ----------
    Gong and Lazebnik: Iterative Quantization, CVPR 2011; Charikar: Similarity Estimation Techniques from Rounding
    Algorithms, STOC 2002.
    """

    name = "itq"
    label = "ITQ"
    paper = "Gong, Lazebnik: Iterative Quantization: A Procrustean Approach to Learning Binary Codes, CVPR 2011"
    Settings: ClassVar[type[ITQSettings]] = ITQSettings
    settings: ITQSettings

    def solve(self, pairs: TrainingPairs, validation: Validation | None, seed: int, watch: Watch) -> Maps:
        """Find the rotation, or draw it by the seed.

        Raises
        ------
        UserError
            If there are fewer training items, or an embedding is narrower, than a code of itq has bits.
        """
        chosen, tables = self.settings, (pairs.images, pairs.texts)
        means = [table.mean(0) for table in tables]
        rows = torch.cat([table - mean for table, mean in zip(tables, means, strict=True)]).cpu().numpy()
        learnt = chosen.rotation == "itq"
        bits = chosen.bits or min(_BITS, rows.shape[1])
        found = itq(rows, bits, seed) if learnt else lsh(rows.shape[1], bits, seed)
        shift, weight = (torch.from_numpy(np.asarray(part)).to(pairs.images) for part in (found.mean, found.weight))
        image, text = (Centred(mean + shift, weight.clone()) for mean in means)  # a file holds each tensor once
        return image, text

    @property
    def config(self) -> dict[str, Any]:
        """The direction, the width of an embedding and of a code."""
        return {**super().config, "bits": 0 if self.maps is None else self.maps[0].get_buffer("weight").shape[1]}

    def blank(self, config: dict[str, Any]) -> Maps:
        """Return two centred linear maps (d -> bits)."""
        image, text = (Centred.blank(dim, config["bits"]) for dim in self.dims)
        return image, text
