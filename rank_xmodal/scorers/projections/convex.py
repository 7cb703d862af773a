"""A convex correction of the cosine: one bilinear map, found by a symmetric softmax over all training pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import scipy  # .optimize when it is first used: a quarter of a second
import torch
from pydantic import Field
from torch import nn

from rank_xmodal.retrieval.query_bank import NEIGHBOURS
from rank_xmodal.scorers.projections.base import Projection
from rank_xmodal.scorers.projections.fit import Validation
from rank_xmodal.scorers.projections.maps import Maps
from rank_xmodal.scorers.projections.pairs import TrainingPairs
from rank_xmodal.scorers.settings import ScorerSettings
from rank_xmodal.training.watch import Watch

RANK, SMALL_RANK, SMALL = 256, 128, 300  # principal directions, and those for up to so many training images
SCALE = 30.0  # of the softmax
ITERATIONS = 15  # of L-BFGS at each strength: it is warm, and an early stop is a penalty too
Places = tuple[torch.Tensor, torch.Tensor]  # of a matrix, rows and columns
MOST = 60_000_000  # logits held at a time; of more captions some are left out


class ConvexSettings(ScorerSettings):
    """The strengths of the penalty: one setting fits sets of all sizes, as it is divided by the number of images."""

    strengths: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (300.0, 60.0),
        min_length=1,
        description="of the penalty, times the number of images; the second starts where the first ends",
    )


class Residual(nn.Module):
    """``x + ((x P) N) Q'``, P (d, k), N (k, k), Q (d, k)."""

    into: torch.Tensor
    core: torch.Tensor
    out: torch.Tensor

    def __init__(self, into: torch.Tensor, core: torch.Tensor, out: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("into", into.float())
        self.register_buffer("core", core.float())
        self.register_buffer("out", out.float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., d) to the same shape."""
        return x + ((x @ self.into) @ self.core) @ self.out.T


class Convex(Projection):
    """``score = i' (I + P N Q') t``, P and Q the main directions of images and texts.

    N minimises, over all training pairs, the mean of the softmax cross-entropies of an image among all texts and of a
    text among all images, at a scale of 30, the logits less half of each side's hubness, plus ``mu / 2 ||N||^2`` with
    mu = strength / number of images. What is relevant to the same item is nobody's negative. The problem is convex:
    without chance. The score is the mean over the strengths.

    References
    ----------
    The loss is CLIP's (Radford et al. 2021), its logits as in CSLS (Conneau et al. 2018, arXiv 1710.04087).
    """

    name = "convex"
    label = "convex map"
    paper = "the loss of Radford et al. 2021 over a low-rank bilinear map, hubness taken off as Conneau et al. 2018 do"
    Settings: ClassVar[type[ConvexSettings]] = ConvexSettings
    settings: ConvexSettings
    rank: int = 0
    cores: torch.Tensor
    """(strengths, k, k): N at each of them."""

    def solve(self, pairs: TrainingPairs, validation: Validation | None, seed: int, watch: Watch) -> Maps:
        """Find N by L-BFGS; without chance, so `seed` changes nothing."""
        problem = _Problem.of(pairs)
        self.rank = problem.rank
        start, found = np.zeros(problem.rank**2), []
        for strength in self.settings.strengths:
            start = scipy.optimize.minimize(
                problem, start, args=(strength / len(pairs.images),), jac=True, method="L-BFGS-B",
                options={"maxiter": ITERATIONS},
            ).x  # fmt: skip
            found.append(torch.from_numpy(start).float().view(problem.rank, problem.rank))
        self.cores = torch.stack(found)
        return Residual(problem.into, self.cores.mean(0).to(problem.into.device), problem.out), nn.Identity()

    def as_query(self, mapped: torch.Tensor) -> torch.Tensor:
        """Return it as it is: lengths count."""
        return mapped

    def as_candidate(self, mapped: torch.Tensor) -> torch.Tensor:
        """Return it as it is: lengths count."""
        return mapped

    @property
    def config(self) -> dict[str, Any]:
        """The direction and the shapes."""
        return {**super().config, "rank": self.rank}

    def blank(self, config: dict[str, Any]) -> Maps:
        """Return a residual map of images and none of texts."""
        self.rank = config["rank"]
        directions = torch.zeros(config["dim"], self.rank)
        return Residual(directions, torch.zeros(self.rank, self.rank), directions.clone()), nn.Identity()


def _directions(table: torch.Tensor, count: int) -> torch.Tensor:
    """Return the main directions of the rows, (n, d) -> (d, count)."""
    centred = table.double() - table.double().mean(0)
    return torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :count].float().contiguous()


def _hubness(of: torch.Tensor, bank: torch.Tensor, own: Places) -> torch.Tensor:
    """Return the mean cosine of each row to its 10 nearest in the bank, those that are its own left out."""
    parts = []
    for start in range(0, len(of), 2_048):
        cosine = of[start : start + 2_048] @ bank.T
        inside = (own[0] >= start) & (own[0] < start + 2_048)
        cosine[own[0][inside] - start, own[1][inside]] = -4.0
        parts.append(cosine.topk(min(NEIGHBOURS, len(bank)), dim=1).values.clamp(min=-1.0).mean(1))
    return torch.cat(parts)


@dataclass
class _Problem:
    """The objective: called with N, flat, and mu it returns the value and the gradient, float64.

    Attributes
    ----------
    into, out : Tensor (d, k)
        Main directions of images and of texts.
    x, y : Tensor (n, k) and (m, k)
        Images and texts along them.
    logits : Tensor (n, m)
        What the softmax is over where N = 0.
    own : pair of Tensor
        Places of the logits where image and text belong together: nobody's negatives.
    image, text : Tensor (P,)
        The pairs.
    """

    into: torch.Tensor
    out: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    logits: torch.Tensor
    own: Places
    image: torch.Tensor
    text: torch.Tensor

    @classmethod
    def of(cls, pairs: TrainingPairs) -> _Problem:
        images, texts = pairs.images, pairs.texts
        device = images.device
        image, text = (torch.from_numpy(rows).to(device) for rows in (pairs.image, pairs.text))
        rank = min(RANK if len(images) > SMALL else SMALL_RANK, images.shape[1])
        into, out = _directions(images, rank), _directions(texts, rank)
        hub_image = _hubness(images, texts, (image, text))
        hub_text = _hubness(texts, images, (text, image))
        most = max(1, MOST // len(images))
        if len(texts) > most:  # an even choice of captions, the same at every call
            kept = torch.linspace(0, len(texts) - 1, most, device=device).long()
            place = torch.full((len(texts),), -1, device=device)
            place[kept] = torch.arange(most, device=device)
            held = place[text] >= 0
            image, text = image[held], place[text[held]]
            texts, hub_text = texts[kept], hub_text[kept]
        logits = SCALE * (images @ texts.T - hub_image[:, None] / 2 - hub_text[None] / 2)
        return cls(into, out, images @ into, texts @ out, logits, (image, text), image, text)

    @property
    def rank(self) -> int:
        return self.into.shape[1]

    def __call__(self, flat: np.ndarray, mu: float) -> tuple[float, np.ndarray]:
        core = torch.from_numpy(flat).to(self.x).view(self.rank, self.rank)
        scores = torch.addmm(self.logits, self.x @ core, self.y.T, alpha=SCALE)
        top = scores.max()
        positive = scores[self.image, self.text] - top
        # In one piece of memory: the exponentials, then the gradient of the scores.
        scores.sub_(top).exp_()
        scores[self.own] = 0
        own = positive.exp()
        row, column = scores.sum(1)[self.image] + own, scores.sum(0)[self.text] + own
        count = len(self.image)
        value = float((row.log() + column.log() - 2 * positive).double().sum()) / (2 * count)
        by_row = torch.zeros_like(scores[:, 0]).index_add_(0, self.image, 1 / row)
        by_column = torch.zeros_like(scores[0]).index_add_(0, self.text, 1 / column)
        scores.mul_(by_row[:, None] + by_column[None])
        pull = (own / row + own / column - 2)[:, None]
        gradient = self.x.T @ (scores @ self.y) + (self.x[self.image] * pull).T @ self.y[self.text]
        gradient = gradient * (SCALE / (2 * count)) + mu * core
        value += mu / 2 * float(core.double().square().sum())
        return value, gradient.double().cpu().numpy().ravel()
