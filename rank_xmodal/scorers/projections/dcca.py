"""Deep canonical correlation analysis: two networks whose outputs correlate as much as they can."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from rank_xmodal.errors import UserError
from rank_xmodal.scorers.projections.base import Projection
from rank_xmodal.scorers.projections.cca import Covariances, cca_maps
from rank_xmodal.scorers.projections.fit import PairSettings, Validation, train, unchanged
from rank_xmodal.scorers.projections.maps import Centred, Maps, apply, undrawn_linear
from rank_xmodal.scorers.projections.pairs import TrainingPairs
from rank_xmodal.training.watch import Watch


def dcca_loss(x: torch.Tensor, y: torch.Tensor, r1: float, r2: float) -> torch.Tensor:
    """Return minus the total correlation of (B, k) and (B, k), a float64 scalar.

    ``-trace norm of T = S11^(-1/2) S12 S22^(-1/2)``, ``S11 = X'X / (B - 1) + r1 I``, X centred; likewise the others.

    With S11 = L L' the matrix L^-1 S12 M'^-1 has the singular values of T, for L^-1 and S11^(-1/2) differ by a
    rotation. So no eigenvector is differentiated, whose gradient divides by differences of eigenvalues: Cholesky and
    triangular solves are smooth, and the gradient of a sum of singular values is U V', equal ones or not.

    Raises
    ------
    torch.linalg.LinAlgError
        If a covariance is singular, which r1, r2 > 0 prevent.
    """
    x, y = x.double(), y.double()
    x, y = x - x.mean(0), y - y.mean(0)
    count = max(len(x) - 1, 1)
    one = torch.linalg.cholesky(x.T @ x / count + r1 * torch.eye(x.shape[1], dtype=x.dtype, device=x.device))
    two = torch.linalg.cholesky(y.T @ y / count + r2 * torch.eye(y.shape[1], dtype=y.dtype, device=y.device))
    half = torch.linalg.solve_triangular(one, x.T @ y / count, upper=False)
    whole = torch.linalg.solve_triangular(two, half.T, upper=False)
    return -torch.linalg.svdvals(whole).sum()


def _blank_network(dim: int, width: int, hidden: int, layers: int) -> nn.Sequential:
    """Return an MLP with tanh over centred embeddings, its tensors still to be set."""
    parts: list[nn.Module] = [Centred.blank(dim, dim)]
    sizes = [dim, *[hidden] * layers]
    for inward, outward in pairwise(sizes):
        parts += [undrawn_linear(inward, outward), nn.Tanh()]
    return nn.Sequential(*parts, undrawn_linear(sizes[-1], width))


def _network(table: torch.Tensor, width: int, hidden: int, layers: int, draw: torch.Generator) -> nn.Module:
    """Return such an MLP for the rows of a table (n, d), its inputs scaled to about 1, with weights from `draw`."""
    mean = table.mean(0)
    rms = max(float((table - mean).square().mean().sqrt()), 1e-6)
    network = _blank_network(len(mean), width, hidden, layers)
    network[0] = Centred(mean, torch.eye(len(mean), device=mean.device) / rms)
    for part in network:
        if isinstance(part, nn.Linear):
            bound = math.sqrt(6 / (part.in_features + part.out_features))  # Glorot's
            with torch.no_grad():
                part.weight.copy_((torch.rand(part.weight.shape, generator=draw) * 2 - 1) * bound)
                part.bias.zero_()
    return network.to(mean.device)


class DCCASettings(PairSettings):
    """Chosen on the validation of a set with 2000 training images and one with 300.

    r1, r2 and weight_decay go together: without the penalty the outputs outgrow the ridges, and the loss is won by
    overfitting. Where much is not linear, less of all three finds more. Batches are large beside `width`, for their
    covariances to mean something (Wang et al. 2015).
    """

    width: int = Field(
        64,
        ge=1,
        description="outputs of a network; never more than d or a quarter of the pairs: with more, any outputs "
        "would correlate",
    )
    hidden: int = Field(512, ge=1, le=65_536, description="units of a hidden layer")
    layers: int = Field(1, ge=0, le=100, description="hidden layers; the papers go deeper, on many more pairs")
    r1: float = Field(10.0, ge=0, description="ridge of the images' covariance in the loss")
    r2: float = Field(10.0, ge=0, description="ridge of the texts' covariance in the loss")
    ridge: float = Field(0.1, ge=0, description="of the linear CCA on top")
    power: float = Field(1.0, ge=0, description="of the linear CCA on top")
    lr: float = Field(1e-3, gt=0, description="Adam's usual")
    weight_decay: float = Field(1e-2, ge=0, description="Adam's L2 penalty")
    batch_size: int = Field(1000, ge=1, description="pairs in a step")
    drop_after: int | None = Field(None, ge=0, description="epoch after which the learning rate is a tenth")


class DCCA(Projection):
    """``score = cosine`` of linear CCA on top of two networks f(x), g(z), which are trained with `dcca_loss`.

    Trained on large batches, as in Wang et al., where the first paper takes all the data at each step of L-BFGS.

    References
    ----------
    Andrew et al.: Deep Canonical Correlation Analysis, ICML 2013. Wang et al.: On Deep Multi-View Representation
    Learning, ICML 2015.
    """

    name = "dcca"
    label = "DCCA"
    paper = "Andrew et al.: Deep Canonical Correlation Analysis, ICML 2013"
    Settings: ClassVar[type[DCCASettings]] = DCCASettings
    takes_unaligned = True
    settings: DCCASettings
    width: int = 0

    def solve(self, pairs: TrainingPairs, validation: Validation | None, seed: int, watch: Watch) -> Maps:
        """Train the networks; see `Projection.solve`.

        Raises
        ------
        UserError
            If the loss is not finite or a covariance has no inverse.
        """
        chosen = self.settings
        left, right = (torch.from_numpy(rows).to(pairs.images.device) for rows in (pairs.image, pairs.text))
        draw = torch.Generator().manual_seed(seed)
        # With more outputs than pairs everything correlates, whatever the networks do.
        self.width = max(1, min(chosen.width, *self.dims, len(pairs) // 4))

        def finish(maps: Maps) -> Maps:
            image, text = unchanged(maps)
            covariances = Covariances.of_pairs(apply(image, pairs.images), apply(text, pairs.texts), left, right)
            on_image, on_text = cca_maps(covariances, chosen.ridge, chosen.power)
            return nn.Sequential(image, on_image), nn.Sequential(text, on_text)

        image, text = (
            _network(table, self.width, chosen.hidden, chosen.layers, draw) for table in (pairs.images, pairs.texts)
        )
        try:
            maps, self.history, self.best_epoch = train(
                (image, text),
                pairs,
                lambda x, y, match: dcca_loss(x, y, chosen.r1, chosen.r2),
                chosen,
                seed=seed,
                finish=finish,
                validation=validation,
                watch=watch,
            )
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # which names it without exporting it
            raise UserError(
                f"the covariance of a batch of outputs has no inverse ({error}). "
                f"Raise r1={chosen.r1:g} and r2={chosen.r2:g} or lower lr={chosen.lr:g}."
            ) from error
        return maps

    @property
    def config(self) -> dict[str, Any]:
        """The direction and the sizes of the networks."""
        return {**super().config, "width": self.width, "hidden": self.settings.hidden, "layers": self.settings.layers}

    def blank(self, config: dict[str, Any]) -> Maps:
        """Return two networks with linear CCA on top."""
        self.width = config["width"]

        def side(dim: int) -> nn.Module:
            network = _blank_network(dim, self.width, config["hidden"], config["layers"])
            return nn.Sequential(network, Centred.blank(self.width, self.width))

        image, text = self.dims
        return side(image), side(text)
