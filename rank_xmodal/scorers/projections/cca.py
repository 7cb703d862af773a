"""Linear canonical correlation analysis, in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from typing_extensions import Self

from rank_xmodal.scorers.projections.base import Projection
from rank_xmodal.scorers.projections.fit import Validation
from rank_xmodal.scorers.projections.maps import BLOCK, Centred, Maps
from rank_xmodal.scorers.projections.pairs import TrainingPairs
from rank_xmodal.scorers.settings import ScorerSettings
from rank_xmodal.training.watch import Watch

# Without a validation to ask: fit for hundreds of pairs, which a smaller one overfits, and not far off for thousands.
RIDGE = 1.0
RIDGES = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class Covariances:
    """Means and covariances of pairs (x, y), float64, divided by the number of pairs.

    Attributes
    ----------
    x_mean, y_mean : Tensor (d,) and (e,)
    xx, yy, xy : Tensor (d, d), (e, e), (d, e)
    """

    x_mean: torch.Tensor
    y_mean: torch.Tensor
    xx: torch.Tensor
    yy: torch.Tensor
    xy: torch.Tensor

    @classmethod
    def of_pairs(cls, x: torch.Tensor, y: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> Covariances:
        """Take the pairs (x[left[i]], y[right[i]]): x (n, d), y (m, e), left and right (P,) int64."""
        # Every pair is a sample, so a mean counts a row once for each of its pairs.
        x_times, y_times = (
            torch.bincount(rows, minlength=len(table)).double() for rows, table in ((left, x), (right, y))
        )
        x_mean, y_mean = (
            sum((t[:, None] * b.double()).sum(0) for t, b in zip(times.split(BLOCK), table.split(BLOCK), strict=True))
            / len(left)
            for times, table in ((x_times, x), (y_times, y))
        )
        xx, yy = (
            sum(
                (b.double() - mean).T @ (t[:, None] * (b.double() - mean))
                for t, b in zip(times.split(BLOCK), table.split(BLOCK), strict=True)
            )
            / len(left)
            for times, table, mean in ((x_times, x, x_mean), (y_times, y, y_mean))
        )
        xy = sum(
            (x[i].double() - x_mean).T @ (y[j].double() - y_mean)
            for i, j in zip(left.split(BLOCK), right.split(BLOCK), strict=True)
        ) / len(left)
        return cls(x_mean, y_mean, xx, yy, xy)


def inverse_root(matrix: torch.Tensor, ridge: float) -> torch.Tensor:
    """Return (S + r I)^(-1/2), r = ridge x mean variance; directions without any variance are left out."""
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp(min=0) + ridge * matrix.diagonal().mean()
    alive = values > values.max() * 1e-12
    scale = torch.where(alive, values.clamp(min=1e-300).rsqrt(), torch.zeros_like(values))
    return (vectors * scale) @ vectors.T


def canonical(
    covariances: Covariances, ridge: float, components: int | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the canonical directions of x and y, (d, k) and (e, k), and their correlations (k,), descending.

    ``U diag(rho) V' = SVD of (Sxx + rx I)^(-1/2) Sxy (Syy + ry I)^(-1/2)``; the directions are
    ``(Sxx + rx I)^(-1/2) U`` and ``(Syy + ry I)^(-1/2) V``.

    Parameters
    ----------
    covariances : Covariances
    ridge : float
        rx and ry as a share of the mean variance of x and of y.
    components : int or None
        k, the first of min(d, e); None for all.
    """
    x_root, y_root = inverse_root(covariances.xx, ridge), inverse_root(covariances.yy, ridge)
    u, rho, vh = torch.linalg.svd(x_root @ covariances.xy @ y_root, full_matrices=False)
    k = len(rho) if components is None else min(components, len(rho))
    return x_root @ u[:, :k], y_root @ vh.T[:, :k], rho[:k]


def cca_maps(
    covariances: Covariances, ridge: float, power: float, components: int | None = None
) -> tuple[Centred, Centred]:
    """Return the maps ``(x - mean) A diag(rho ** power)`` of both sides, from `canonical`."""
    a, b, rho = canonical(covariances, ridge, components)
    weight = rho.clamp(min=0, max=1) ** power
    return Centred(covariances.x_mean, a * weight), Centred(covariances.y_mean, b * weight)


class CCASettings(ScorerSettings):
    """The ridge, and how much weak components count."""

    ridge: float | None = Field(
        None,
        ge=0,
        description=f"share of the mean variance that is added to every variance; None: the best of {RIDGES} on "
        f"validation, without one {RIDGE}",
    )
    power: float = Field(
        1.0,
        ge=0,
        description="of rho, each component's weight: Gong et al. find that some power (of 1 + rho) beats none and "
        "take 4; of rho, over CLIP's embeddings, 4 was worse than 1 on validation with thousands of pairs, no better "
        "with hundreds",
    )
    components: int | None = Field(None, ge=1, description="None for all: the weights already fade the last ones out")


class CCA(Projection):
    """``score = cosine(A' (x - mean), B' (y - mean))`` with A, B from `canonical`, each component times rho ** power.

    The weights are Gong et al.'s: chance correlations count less. Theirs are powers of the eigenvalue of the two views
    together, which is 1 + rho and leaves a component of pure chance at 1; a power of rho itself takes it to 0.

    Attributes
    ----------
    best_ridge : float
        The one chosen.

    References
    ----------
    Hotelling: Relations between two sets of variates, Biometrika 1936; for images and texts Gong et al.: A Multi-View
    Embedding Space for Modeling Internet Images, Tags, and Their Semantics, IJCV 2014, arXiv 1212.4522.
    """

    name = "cca"
    label = "CCA"
    paper = "Hotelling: Relations between two sets of variates, Biometrika 1936"
    Settings: ClassVar[type[CCASettings]] = CCASettings
    takes_unaligned = True
    settings: CCASettings
    best_ridge: float = RIDGE

    def solve(self, pairs: TrainingPairs, validation: Validation | None, seed: int, watch: Watch) -> Maps:
        """Solve on the training pairs; without chance, so `seed` changes nothing."""
        chosen = self.settings
        left, right = (torch.from_numpy(rows).to(pairs.images.device) for rows in (pairs.image, pairs.text))
        covariances = Covariances.of_pairs(pairs.images, pairs.texts, left, right)
        fixed = RIDGE if chosen.ridge is None else chosen.ridge
        ridges = RIDGES if chosen.ridge is None and validation is not None else (fixed,)
        tried = {ridge: cca_maps(covariances, ridge, chosen.power, chosen.components) for ridge in ridges}
        self.best_ridge = ridges[0]
        if validation is not None and len(tried) > 1:
            self.best_ridge = max(tried, key=lambda ridge: validation.mrr(tried[ridge]))
        return tried[self.best_ridge]

    def refitting(self) -> Self:
        """Return one that is not fitted, with the ridge that this one chose."""
        return type(self)(self.settings.model_copy(update={"ridge": self.best_ridge}))

    @property
    def config(self) -> dict[str, Any]:
        """The direction, the width before and after, and the ridge."""
        width = 0 if self.maps is None else self.maps[0].get_buffer("weight").shape[1]
        return {**super().config, "width": width, "ridge": self.best_ridge}

    def blank(self, config: dict[str, Any]) -> Maps:
        """Return two centred linear maps (d -> k)."""
        self.best_ridge = config["ridge"]
        image, text = self.dims
        return Centred.blank(image, config["width"]), Centred.blank(text, config["width"])
