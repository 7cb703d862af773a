"""A Gaussian likelihood ratio, in closed form: how much more likely a candidate is once the query is known."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field

from rank_xmodal.scorers.projections.base import Projection
from rank_xmodal.scorers.projections.cca import inverse_root
from rank_xmodal.scorers.projections.fit import Validation
from rank_xmodal.scorers.projections.maps import Centred, Maps
from rank_xmodal.scorers.projections.pairs import TrainingPairs
from rank_xmodal.scorers.settings import ScorerSettings
from rank_xmodal.training.watch import Watch


class GaussianSettings(ScorerSettings):
    """Three guards against too few pairs; none of them was tuned to a set."""

    blend: float = Field(0.3, ge=0, le=1, description="share of `both sides mean the same` in the cross-covariance")
    ridge: float = Field(1.0, ge=0, description="share of the mean variance that is added to every variance")
    cap: float = Field(0.95, gt=0, lt=1, description="largest canonical correlation; without one the score collapses")


class Whitened(Centred):
    """``normalised(x - mean) weight``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., d) to (..., k)."""
        return F.normalize(x - self.mean, dim=-1) @ self.weight


class Gaussian(Projection):
    r"""``score = log p(c | q) / p(c)`` of a joint Gaussian of centred, renormalised pairs, less what only q decides.

    .. math:: \sum_i \frac{s_i}{1 - s_i^2} u_i v_i - \frac{s_i^2}{2 (1 - s_i^2)} v_i^2

    u and v are the coordinates of query and candidate along the singular vectors of ``A^-1/2 B D^-1/2`` with singular
    values s; A and D are the covariances of the two sides, B that between them, shrunk towards
    ``tr B / tr M * M, M = (A + D) / 2``: as if both sides meant the same.

    References
    ----------
    The likelihood ratio of probabilistic CCA: Bach and Jordan: A Probabilistic Interpretation of Canonical Correlation
    Analysis, 2005; as a score of two views: Ioffe: Probabilistic Linear Discriminant Analysis, ECCV 2006.
    """

    name = "gaussian"
    label = "Gaussian"
    paper = "Bach, Jordan: A Probabilistic Interpretation of Canonical Correlation Analysis, 2005"
    Settings: ClassVar[type[GaussianSettings]] = GaussianSettings
    settings: GaussianSettings

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self.penalty = torch.zeros(0)  # (k,), of each coordinate's square

    def solve(self, pairs: TrainingPairs, validation: Validation | None, seed: int, watch: Watch) -> Maps:
        """Solve on the training pairs; without chance, so `seed` changes nothing."""
        chosen = self.settings
        device = pairs.images.device
        means = [table.double().mean(0) for table in (pairs.images, pairs.texts)]
        x, y = (
            F.normalize(table.double() - mean, dim=1)[torch.from_numpy(rows).to(device)]
            for table, mean, rows in zip((pairs.images, pairs.texts), means, (pairs.image, pairs.text), strict=True)
        )
        a, d, b = x.T @ x / len(x), y.T @ y / len(x), x.T @ y / len(x)
        same = (a + d) / 2
        b = (1 - chosen.blend) * b + chosen.blend * b.trace() / same.trace() * same
        roots = [inverse_root(matrix, chosen.ridge) for matrix in (a, d)]
        u, s, vh = torch.linalg.svd(roots[0] @ b @ roots[1])
        s = s.clamp(max=chosen.cap)
        scale = (s / (1 - s * s)).sqrt()
        # In coordinates scaled so, the product has weights 1 and the square s / 2.
        self.penalty = (s / 2).float().cpu()
        return (
            Whitened(means[0], roots[0] @ u * scale).to(device),
            Whitened(means[1], roots[1] @ vh.T * scale).to(device),
        )

    def as_query(self, mapped: torch.Tensor) -> torch.Tensor:
        """Return the coordinates with a 1 behind them, for the candidate's own term."""
        return torch.cat([mapped, torch.ones_like(mapped[..., :1])], dim=-1)

    def as_candidate(self, mapped: torch.Tensor) -> torch.Tensor:
        """Return the coordinates with the term that the candidate alone decides behind them."""
        own = -(mapped.square() @ self.penalty.to(mapped.device))
        return torch.cat([mapped, own[..., None]], dim=-1)

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """The maps and the weights of the squares."""
        return {**super().state, "penalty": self.penalty}

    def load(self, config: dict[str, Any], state: dict[str, torch.Tensor]) -> Gaussian:
        """Take over maps and weights; see `Scorer.load`."""
        self.penalty = state["penalty"]
        return super().load(config, state)

    def blank(self, config: dict[str, Any]) -> Maps:
        """Return two whitened maps (d -> d)."""
        dim = config["dim"]
        return Whitened.blank(dim, dim), Whitened.blank(dim, dim)
