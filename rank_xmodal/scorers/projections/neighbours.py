"""Neighbours: a candidate is taken for what was asked for the training candidates that are like it."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import nn

from rank_xmodal.scorers.projections.base import Projection
from rank_xmodal.scorers.projections.fit import Validation
from rank_xmodal.scorers.projections.maps import Maps, Shifted
from rank_xmodal.scorers.projections.pairs import TrainingPairs
from rank_xmodal.training.watch import Watch

NEAR = 50  # training candidates that are asked
SHARPNESS = 10.0  # of the softmax over their cosines
LARGEST = 20_000  # training candidates; as in the query bank
_BLOCK = 1_024


class Predicted(nn.Module):
    """``sum_j softmax_j(10 cosine(x - mean, known_j)) answer_j`` over the 50 nearest of the known."""

    mean: torch.Tensor
    known: torch.Tensor
    answers: torch.Tensor

    def __init__(self, mean: torch.Tensor, known: torch.Tensor, answers: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        # As embeddings are stored: two tables of the training set would otherwise be the largest part of a ranker.
        self.register_buffer("known", known.half())
        self.register_buffer("answers", answers.half())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., d) to the same shape."""
        flat = F.normalize(x - self.mean, dim=-1).reshape(-1, x.shape[-1])
        known = self.known.float()
        return torch.cat([self.answer(block @ known.T) for block in flat.split(_BLOCK)]).view(x.shape)

    def answer(self, cosine: torch.Tensor) -> torch.Tensor:
        """Return the answer to cosines with the known, (n, m) -> (n, d); what is -inf is not asked."""
        near = cosine.topk(min(NEAR, cosine.shape[1]), dim=1)
        weight = torch.softmax(SHARPNESS * near.values, dim=1).nan_to_num()  # where none is asked there is no answer
        return F.embedding_bag(near.indices, self.answers.float(), per_sample_weights=weight, mode="sum")


def predicted(pairs: TrainingPairs, of: str, means: tuple[torch.Tensor, torch.Tensor]) -> Predicted:
    """Return the map of one side, "image" or "text": from its items to the mean of what they belong to.

    Parameters
    ----------
    pairs : TrainingPairs
    of : str
    means : of images and of texts, (d,) each
    """
    images, texts = (F.normalize(x - mean, dim=1) for x, mean in zip((pairs.images, pairs.texts), means, strict=True))
    relevant = pairs.relevant.T if of == "image" else pairs.relevant
    known, other = (images, texts) if of == "image" else (texts, images)
    rows = known_rows(len(known))
    chosen = sp.csr_matrix(relevant[rows], dtype=np.float32)
    answers = torch.from_numpy(np.asarray((chosen @ other.cpu().numpy()) / chosen.sum(1))).to(known.device)
    mean = means[0] if of == "image" else means[1]
    return Predicted(mean, known[torch.from_numpy(rows).to(known.device)], answers)


def known_rows(count: int) -> np.ndarray:
    """Return which of so many training candidates are kept: all, or an even choice, the same at every call."""
    return np.linspace(0, count - 1, min(count, LARGEST)).astype(np.int64)


class Neighbours(Projection):
    """``score = cosine(q - mean, sum_j w_j q_j)``, the q_j asked for the 50 training candidates nearest to c.

    A k-nearest-neighbour estimate of what would be asked for c; both sides centred, w a softmax of the cosines.

    References
    ----------
    As ASIF, a comparison by way of known pairs: Norelli et al.: ASIF: Coupled Data Turns Unimodal Models to Multimodal
    Without Training, NeurIPS 2023, arXiv 2210.01738; the kernel estimate: Nadaraya 1964, Watson 1964.
    """

    name = "neighbours"
    label = "neighbours"
    paper = "Norelli et al.: ASIF: Coupled Data Turns Unimodal Models to Multimodal Without Training, 2023"

    def solve(self, pairs: TrainingPairs, validation: Validation | None, seed: int, watch: Watch) -> Maps:
        """Take the tables; without chance, so `seed` changes nothing."""
        means = pairs.images.double().mean(0).float(), pairs.texts.double().mean(0).float()
        if self.direction == "t2i":
            return predicted(pairs, "image", means), Shifted(means[1])
        return Shifted(means[0]), predicted(pairs, "text", means)

    @property
    def config(self) -> dict[str, Any]:
        """The direction and the shapes."""
        known = next((len(module.known) for module in self.maps or () if isinstance(module, Predicted)), 0)
        return {**super().config, "known": known}

    def blank(self, config: dict[str, Any]) -> Maps:
        """Return a shift and a table, both still to be loaded."""
        mean = torch.zeros(config["dim"])
        table = torch.zeros(config["known"], config["dim"])
        maps = Predicted(mean, table, table.clone()), Shifted(mean.clone())
        return maps if config["direction"] == "t2i" else (maps[1], maps[0])
