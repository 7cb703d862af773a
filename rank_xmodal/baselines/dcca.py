"""Deep canonical correlation analysis: two networks whose outputs correlate as much as they can."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn

from rank_xmodal.baselines._projected import (
    Centred,
    Maps,
    Projected,
    TrainingPairs,
    Validation,
    apply,
    train,
    unchanged,
    undrawn_linear,
)
from rank_xmodal.baselines._settings import check_counts, check_numbers
from rank_xmodal.baselines.cca import Covariances, cca_maps
from rank_xmodal.embedding_set import Direction, EmbeddingSet, check_direction
from rank_xmodal.errors import UserError

if TYPE_CHECKING:
    from rank_xmodal.evaluation import FirstStage


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


def _network(mean: torch.Tensor, rms: float, width: int, hidden: int, layers: int, draw: torch.Generator) -> nn.Module:
    """Return an MLP with tanh over centred embeddings whose entries are about 1, with weights from `draw`."""
    sizes = [len(mean), *[hidden] * layers]
    parts: list[nn.Module] = [Centred(mean, torch.eye(len(mean), device=mean.device) / rms)]
    for inward, outward in pairwise(sizes):
        parts += [undrawn_linear(inward, outward), nn.Tanh()]
    parts.append(undrawn_linear(sizes[-1], width))
    for part in parts:
        if isinstance(part, nn.Linear):
            bound = math.sqrt(6 / (part.in_features + part.out_features))  # Glorot's
            with torch.no_grad():
                part.weight.copy_((torch.rand(part.weight.shape, generator=draw) * 2 - 1) * bound)
                part.bias.zero_()
    return nn.Sequential(*parts).to(mean.device)


@dataclass
class DCCA(Projected):
    """``score = cosine`` of linear CCA on top of two networks f(x), g(z), which are trained with `dcca_loss`.

    Andrew et al.: Deep Canonical Correlation Analysis, ICML 2013. Trained on large batches, as in Wang et al.: On Deep
    Multi-View Representation Learning, ICML 2015, where the paper takes all the data at each step of L-BFGS.

    Attributes
    ----------
    width : int
        Outputs of a network; never more than d or a quarter of the pairs, where any outputs would correlate.
    hidden, layers : int
        Units of a hidden layer (tanh) and their number. The papers go deeper, on many more pairs.
    r1, r2, weight_decay : float
        The ridges of `dcca_loss` and Adam's L2 penalty. The paper tunes them; these were chosen on the validation of a
        set with 2000 training images and one with 300, and go together: without the penalty the outputs outgrow the
        ridges, and the loss is won by overfitting. Where much is not linear, less of all three finds more.
    ridge, power : float
        Of the linear CCA on top, see `CCA`.
    lr, batch_size, epochs
        Adam's usual rate; batches large beside `width`, for their covariances to mean something (Wang et al.).
    device : str

    Raises
    ------
    UserError
        If a setting is out of its range; names it and the range.
    """

    width: int = 64
    hidden: int = 512
    layers: int = 1
    r1: float = 10.0
    r2: float = 10.0
    ridge: float = 0.1
    power: float = 1.0
    lr: float = 1e-3
    weight_decay: float = 1e-2
    batch_size: int = 1000
    epochs: int = 30
    device: str = "cpu"

    name = "dcca"
    paper = "Andrew et al.: Deep Canonical Correlation Analysis, ICML 2013"

    def __post_init__(self) -> None:
        check_counts(self, "width", "hidden", "batch_size")
        check_counts(self, "layers", "epochs", least=0)
        check_numbers(self, "lr")
        check_numbers(self, "r1", "r2", "ridge", "power", "weight_decay", zero=True)

    def fit(
        self, data: EmbeddingSet, direction: Direction, *, seed: int = 0, validation: FirstStage | None = None
    ) -> DCCA:
        """Train on the training pairs; a validation chooses the epoch (`best_epoch`).

        Raises
        ------
        UserError
            If the direction is unknown, train holds no pair, the loss is not finite or a covariance has no inverse.
        """
        self.direction = check_direction(direction)
        pairs = TrainingPairs.gather(data, self.device)
        left, right = (torch.from_numpy(rows).to(self.device) for rows in (pairs.image, pairs.text))
        draw = torch.Generator().manual_seed(seed)
        # With more outputs than pairs everything correlates, whatever the networks do.
        width = max(1, min(self.width, data.dim, len(pairs) // 4))

        def start(table: torch.Tensor) -> nn.Module:
            mean = table.mean(0)
            rms = max(float((table - mean).square().mean().sqrt()), 1e-6)
            return _network(mean, rms, width, self.hidden, self.layers, draw)

        def finish(maps: Maps) -> Maps:
            image, text = unchanged(maps)
            covariances = Covariances.of_pairs(apply(image, pairs.images), apply(text, pairs.texts), left, right)
            on_image, on_text = cca_maps(covariances, self.ridge, self.power)
            return nn.Sequential(image, on_image), nn.Sequential(text, on_text)

        try:
            self.maps, self.best_epoch = train(
                (start(pairs.images), start(pairs.texts)),
                pairs,
                lambda x, y, match: dcca_loss(x, y, self.r1, self.r2),
                epochs=self.epochs,
                batch_size=self.batch_size,
                lr=self.lr,
                weight_decay=self.weight_decay,
                seed=seed,
                finish=finish,
                validation=Validation(data, direction, validation, self.device) if validation else None,
            )
        except torch.linalg.LinAlgError as error:
            raise UserError(
                f"the covariance of a batch of outputs has no inverse ({error}). "
                f"Raise r1={self.r1} and r2={self.r2} or lower lr={self.lr}."
            ) from error
        return self
