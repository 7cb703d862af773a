"""Two networks that bring items near a centre of their class, which both sides share."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from rank_xmodal.lists.needs import Needs
from rank_xmodal.scorers.projections.class_training import Batch, ClassSettings, ClassTrained, class_count
from rank_xmodal.scorers.projections.fit import Validation
from rank_xmodal.scorers.projections.maps import Maps
from rank_xmodal.scorers.projections.networks import blank_network, network
from rank_xmodal.scorers.projections.objectives import prototype_loss
from rank_xmodal.scorers.projections.pairs import TrainingPairs
from rank_xmodal.training.watch import Watch


def drawn_centres(classes: int, width: int, draw: torch.Generator) -> Tensor:
    """Return a centre of length 1 for each class, (C, k) float32: orthogonal where k allows it."""
    centres = torch.randn(classes, width, generator=draw, dtype=torch.float64)
    if classes <= width:
        centres = torch.linalg.qr(centres.T)[0].T
    return nn.functional.normalize(centres, dim=-1).float()


class Prototypes(nn.Module):
    """`prototype_loss` of images plus that of texts, to centres that both share."""

    centres: Tensor

    def __init__(self, centres: Tensor, learnt: bool, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        if learnt:
            self.centres = nn.Parameter(centres)
        else:
            self.register_buffer("centres", centres)

    def forward(self, image: Tensor, text: Tensor, batch: Batch) -> Tensor:
        """Return the loss of mapped pairs (B, k) and (B, k), a scalar."""
        of_images = prototype_loss(image, self.centres, batch.image_labels, self.temperature)
        return of_images + prototype_loss(text, self.centres, batch.text_labels, self.temperature)


class PrototypeSettings(ClassSettings):
    """What is near what, and how sharp."""

    centres: Literal["learnt", "fixed"] = Field(
        "learnt", description="trained with the networks, or left where they were drawn, apart from one another"
    )
    width: int = Field(64, ge=1, le=65_536, description="of the embeddings")
    temperature: float = Field(0.1, gt=0, description="of the softmax over the centres")
    weight_decay: float = Field(3e-3, ge=0, description="Adam's L2 penalty")


class Prototype(ClassTrained):
    """``score = cosine(f(x), g(z))``, f and g networks of two layers trained with `prototype_loss`.

    References
    ----------
    Zeng and Mao: A Comprehensive Empirical Study of Vision-Language Pre-trained Model for Supervised Cross-Modal
    Retrieval, arXiv:2201.02772, 2022 (CLIP4CMR).
    """

    name = "prototype"
    label = "prototypes"
    paper = (
        "Zeng, Mao: A Comprehensive Empirical Study of Vision-Language Pre-trained Model for Supervised Cross-Modal "
        "Retrieval, 2022, arXiv:2201.02772"
    )
    Settings: ClassVar[type[PrototypeSettings]] = PrototypeSettings
    takes_unaligned = True
    settings: PrototypeSettings

    @property
    def needs(self) -> Needs:
        """Classes."""
        return Needs(labels=True)

    def solve(self, pairs: TrainingPairs, validation: Validation | None, seed: int, watch: Watch) -> Maps:
        """Train the networks and the centres; see `Projection.solve`.

        Raises
        ------
        UserError
            If there are no classes, or one only.
        """
        chosen, draw = self.settings, torch.Generator().manual_seed(seed)
        centres = drawn_centres(class_count(pairs, "scorer=prototype"), chosen.width, draw)
        objective = Prototypes(centres, chosen.centres == "learnt", chosen.temperature).to(pairs.images.device)
        image, text = (network(table, chosen.hidden, chosen.width, draw) for table in (pairs.images, pairs.texts))
        return self.learn((image, text), pairs, objective, validation, seed, watch)

    @property
    def config(self) -> dict[str, Any]:
        """The direction and the sizes of the networks."""
        return {**super().config, "width": self.settings.width}

    def blank(self, config: dict[str, Any]) -> Maps:
        """Return two networks whose tensors are still to be loaded."""
        image, text = self.dims
        hidden, width = config["hidden"], config["width"]
        return blank_network(image, hidden, width), blank_network(text, hidden, width)
