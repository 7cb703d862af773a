"""Two networks into a common space, trained by one of the field's objectives."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from rank_xmodal.errors import UserError
from rank_xmodal.lists.needs import Needs
from rank_xmodal.scorers.projections.cca import Covariances, cca_maps
from rank_xmodal.scorers.projections.class_training import Batch, ClassSettings, ClassTrained, Objective, class_count
from rank_xmodal.scorers.projections.dcca import dcca_loss
from rank_xmodal.scorers.projections.fit import Validation, unchanged
from rank_xmodal.scorers.projections.maps import Centred, Maps, apply, undrawn_linear
from rank_xmodal.scorers.projections.networks import blank_network, drawn, network
from rank_xmodal.scorers.projections.objectives import (
    class_likelihood,
    contrastive_loss,
    distance_loss,
    dscmr_loss,
    modality_loss,
    reverse,
    structure_loss,
)
from rank_xmodal.scorers.projections.pairs import TrainingPairs
from rank_xmodal.scorers.projections.vsepp import MARGIN, vsepp_loss
from rank_xmodal.training.watch import Watch

CORRESPONDENCE = 0.2  # alpha
CLASSED = ("acmr", "dscmr")


class Reconstruction(nn.Module):
    """Cross-modal autoencoders whose codes correspond.

    ``(1 - a) (mean |y - d(f(x))|^2 + mean |x - e(g(y))|^2) + a mean_i |f(x_i) - g(y_i)|^2``, a = 0.2: of standardised
    features x and y each code gives back the other side; plus `distances` times `distance_loss`.

    References
    ----------
    Feng et al.: Cross-modal Retrieval with Correspondence Autoencoder, ACM MM 2014, doi:10.1145/2647868.2654902
    (Corr-Cross-AE, without its restricted Boltzmann machines); for the distances see `distance_loss`.
    """

    def __init__(
        self, scalings: tuple[nn.Module, nn.Module], dims: tuple[int, int], hidden: int, width: int, distances: float
    ) -> None:
        super().__init__()
        self.scalings, self.distances = nn.ModuleList(scalings), distances
        self.to_image, self.to_text = (
            nn.Sequential(undrawn_linear(width, hidden), nn.ReLU(), undrawn_linear(hidden, dim)) for dim in dims
        )

    def forward(self, image: Tensor, text: Tensor, batch: Batch) -> Tensor:
        """Return the loss of mapped pairs (B, k) and (B, k), a scalar."""
        images, texts = (scale(raw) for scale, raw in zip(self.scalings, (batch.images, batch.texts), strict=True))
        across = F.mse_loss(self.to_text(image), texts) + F.mse_loss(self.to_image(text), images)
        near = (image - text).square().sum(1).mean()
        value = (1 - CORRESPONDENCE) * across + CORRESPONDENCE * near
        return value + self.distances * distance_loss(image, text, images, texts) if self.distances else value


class ACMR(nn.Module):
    """Label prediction and structure preservation against an adversary that tells images from texts.

    ``label + structure + adversary``, of `class_likelihood`, `structure_loss` and `modality_loss`; through a gradient
    reversal layer of fixed strength the networks raise what the adversary lowers.

    References
    ----------
    Wang et al.: Adversarial Cross-Modal Retrieval, ACM MM 2017, doi:10.1145/3123266.3123326.
    """

    def __init__(self, width: int, classes: int, margin: float, adversary: float) -> None:
        super().__init__()
        self.margin, self.strength = margin, adversary
        self.classifier = undrawn_linear(width, classes)
        self.adversary = nn.Sequential(undrawn_linear(width, width), nn.ReLU(), undrawn_linear(width, 1))

    def forward(self, image: Tensor, text: Tensor, batch: Batch) -> Tensor:
        """Return the loss of mapped pairs (B, k) and (B, k), a scalar."""
        sides = ((image, batch.image_labels), (text, batch.text_labels))
        label = torch.stack([class_likelihood(self.classifier(x), labels) for x, labels in sides]).sum()
        structure = structure_loss(image, text, batch.match, self.margin)
        told = (self.adversary(reverse(x, self.strength))[:, 0] for x in (image, text))
        return label + structure + modality_loss(*told)


class DSCMR(nn.Module):
    """`dscmr_loss` with the linear classifier that it needs.

    The paper's two networks share their last layer, too; these share the classifier alone.

    References
    ----------
    Zhen et al.: Deep Supervised Cross-Modal Retrieval, CVPR 2019, doi:10.1109/CVPR.2019.01064.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.classifier = undrawn_linear(width, classes)

    def forward(self, image: Tensor, text: Tensor, batch: Batch) -> Tensor:
        """Return the loss of mapped pairs (B, k) and (B, k), a scalar."""
        scores = (self.classifier(image), self.classifier(text))
        return dscmr_loss(image, text, *scores, batch.image_labels, batch.text_labels)


class MLPSettings(ClassSettings):
    """What the networks learn, and how wide they are."""

    objective: Literal["contrastive", "vse", "correlation", "reconstruction", "acmr", "dscmr"] = Field(
        "contrastive", description="acmr and dscmr need classes; contrastive and vse use them where there are any"
    )
    space: Literal["embedding", "posterior"] = Field(
        "embedding", description="of acmr: what the networks give, or the class posteriors made of it"
    )
    width: int = Field(64, ge=1, le=65_536, description="of the embeddings; of correlation a quarter of the pairs")
    temperature: float = Field(0.1, gt=0, description="of contrastive")
    margin: float = Field(MARGIN, ge=0, description="of vse")
    structure_margin: float = Field(1.0, ge=0, le=2, description="of acmr, between embeddings of length 1")
    adversary: float = Field(0.1, ge=0, description="of acmr: strength of the reversed gradient")
    r: float = Field(10.0, ge=0, description="of correlation: ridge of both covariances in the loss")
    distances: float = Field(
        0.0, ge=0, description="of reconstruction: weight of keeping the features' distances (Zhan et al. 2018)"
    )
    weight_decay: float = Field(3e-3, ge=0, description="Adam's L2 penalty")

    @model_validator(mode="after")
    def _posteriors_are_of_classes(self) -> Self:
        if self.space == "posterior" and self.objective != "acmr":
            raise ValueError(f"space=posterior goes with objective=acmr, found objective={self.objective}")
        return self


class MLP(ClassTrained):
    """``score = cosine(f(x), g(z))``, f and g networks of two layers.

    With `objective`

    - contrastive: `contrastive_loss`; vse: `vsepp_loss`. Where the set has classes, all that share one match.
    - correlation: `dcca_loss`, with linear CCA on top, as the loss leaves open how the two spaces are turned.
    - reconstruction: `Reconstruction`; acmr: `ACMR`; dscmr: `DSCMR`.

    References
    ----------
    With each objective.
    """

    name = "mlp"
    label = "MLP"
    paper = "Feng et al., ACM MM 2014 (reconstruction); Wang et al., ACM MM 2017 (acmr); Zhen et al., CVPR 2019 (dscmr)"
    Settings: ClassVar[type[MLPSettings]] = MLPSettings
    takes_unaligned = True
    settings: MLPSettings
    width: int = 0
    classes: int = 0

    @property
    def needs(self) -> Needs:
        """Classes, where the objective reads them."""
        return Needs(labels=self.settings.objective in CLASSED)

    def solve(self, pairs: TrainingPairs, validation: Validation | None, seed: int, watch: Watch) -> Maps:
        """Train the networks; see `Projection.solve`.

        Raises
        ------
        UserError
            If the objective needs classes and there are none, or one only.
        """
        chosen, draw = self.settings, torch.Generator().manual_seed(seed)
        self.classes = class_count(pairs, f"objective={chosen.objective}") if chosen.objective in CLASSED else 0
        self.width = chosen.width
        if chosen.objective == "correlation":  # with more outputs than pairs everything correlates
            self.width = max(1, min(chosen.width, *self.dims, len(pairs) // 4))
        image, text = (network(table, chosen.hidden, self.width, draw) for table in (pairs.images, pairs.texts))
        objective = self._objective((image[0], text[0]))
        if isinstance(objective, nn.Module):
            drawn(objective, draw).to(pairs.images.device)

        def finish(maps: Maps) -> Maps:
            images, texts = unchanged(maps)
            if chosen.objective == "correlation":
                return _correlated(images, texts, pairs)
            if chosen.space == "posterior" and isinstance(objective, ACMR):
                shared = objective.classifier
                return unchanged((_posterior(images, shared), _posterior(texts, shared)))
            return images, texts

        try:
            return self.learn((image, text), pairs, objective, validation, seed, watch, finish)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # which names it without exporting it
            raise UserError(
                f"the covariance of a batch of outputs has no inverse ({error}). Raise r={chosen.r:g} or lower "
                f"lr={chosen.lr:g}."
            ) from error

    def _objective(self, scalings: tuple[nn.Module, nn.Module]) -> Objective:
        chosen = self.settings
        if chosen.objective == "reconstruction":
            return Reconstruction(scalings, self.dims, chosen.hidden, self.width, chosen.distances)
        if chosen.objective == "acmr":
            return ACMR(self.width, self.classes, chosen.structure_margin, chosen.adversary)
        if chosen.objective == "dscmr":
            return DSCMR(self.width, self.classes)
        plain: dict[str, Objective] = {
            "contrastive": lambda x, z, batch: contrastive_loss(x, z, batch.match, chosen.temperature),
            "vse": lambda x, z, batch: vsepp_loss(x, z, batch.match, chosen.margin),
            "correlation": lambda x, z, batch: dcca_loss(x, z, chosen.r, chosen.r),
        }
        return plain[chosen.objective]

    @property
    def config(self) -> dict[str, Any]:
        """The direction and the sizes of the networks."""
        return {**super().config, "width": self.width, "classes": self.classes}

    def blank(self, config: dict[str, Any]) -> Maps:
        """Return two networks, with linear CCA or a classifier on top where the settings say so."""
        self.width, self.classes = config["width"], config["classes"]

        def side(dim: int) -> nn.Module:
            below = blank_network(dim, config["hidden"], self.width)
            if self.settings.objective == "correlation":
                return nn.Sequential(below, Centred.blank(self.width, self.width))
            if self.settings.space == "posterior":
                return _posterior(below, undrawn_linear(self.width, self.classes))
            return below

        image, text = self.dims
        return side(image), side(text)


def _posterior(below: nn.Module, classifier: nn.Module) -> nn.Sequential:
    return nn.Sequential(below, classifier, nn.Softmax(dim=-1))


def _correlated(image: nn.Module, text: nn.Module, pairs: TrainingPairs) -> Maps:
    """Return the networks with linear CCA of what they make of the training pairs on top."""
    left, right = (torch.from_numpy(rows).to(pairs.images.device) for rows in (pairs.image, pairs.text))
    covariances = Covariances.of_pairs(apply(image, pairs.images), apply(text, pairs.texts), left, right)
    on_image, on_text = cca_maps(covariances, ridge=1.0, power=1.0)
    return nn.Sequential(image, on_image), nn.Sequential(text, on_text)
