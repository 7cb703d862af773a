"""Hash codes: two networks whose signs are compared bit by bit."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from rank_xmodal.errors import UserError
from rank_xmodal.lists.needs import Needs
from rank_xmodal.scorers.projections.class_training import Batch, ClassSettings, ClassTrained, Objective, class_count
from rank_xmodal.scorers.projections.codes import Codes
from rank_xmodal.scorers.projections.fit import Validation
from rank_xmodal.scorers.projections.hash_objectives import (
    balance_loss,
    dcmh_loss,
    djsrh_loss,
    joint_similarity,
    quantisation_loss,
    teacher_loss,
)
from rank_xmodal.scorers.projections.maps import Maps, undrawn_linear
from rank_xmodal.scorers.projections.networks import blank_network, drawn, network
from rank_xmodal.scorers.projections.objectives import contrastive_loss
from rank_xmodal.scorers.projections.pairs import TrainingPairs
from rank_xmodal.training.watch import Watch


class LabelTeacher(nn.Module):
    """SSAH's label network, whose codes the networks of both sides learn; without the paper's two adversaries.

    The teacher learns `teacher_loss` of its own codes; those of images and texts learn it against the teacher's, which
    their gradient leaves alone.

    References
    ----------
    Li et al.: Self-Supervised Adversarial Hashing Networks for Cross-Modal Retrieval, CVPR 2018, arXiv:1804.01223.
    """

    def __init__(self, classes: int, hidden: int, bits: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            undrawn_linear(classes, hidden), nn.ReLU(), undrawn_linear(hidden, bits), nn.Tanh()
        )
        self.classifier = undrawn_linear(bits, classes)

    def forward(self, image: Tensor, text: Tensor, batch: Batch) -> Tensor:
        """Return the loss of codes (B, k) and (B, k), a scalar."""
        parts = []
        for code, labels in ((image, batch.image_labels), (text, batch.text_labels)):
            taught, same = self.encoder(labels), labels @ labels.T > 0
            parts.append(teacher_loss(taught, taught, same, self.classifier(taught), labels))
            parts.append(teacher_loss(code, taught.detach(), same, self.classifier(code), labels))
        return torch.stack(parts).sum()


class JointSemantics(nn.Module):
    """`djsrh_loss` towards `joint_similarity` of standardised features; no class is looked at."""

    def __init__(self, scalings: tuple[nn.Module, nn.Module]) -> None:
        super().__init__()
        self.scalings = nn.ModuleList(scalings)

    def forward(self, image: Tensor, text: Tensor, batch: Batch) -> Tensor:
        """Return the loss of codes (B, k) and (B, k), a scalar."""
        images, texts = (scale(raw) for scale, raw in zip(self.scalings, (batch.images, batch.texts), strict=True))
        return djsrh_loss(image, text, joint_similarity(images, texts))


class HashSettings(ClassSettings):
    """What the codes learn, and how many bits they have."""

    objective: Literal["auto", "dcmh", "ssah", "djsrh", "contrastive"] = Field(
        "auto",
        description="dcmh and ssah need classes, djsrh uses none, contrastive uses them where there are any; "
        "auto: dcmh, without classes contrastive",
    )
    bits: int = Field(64, ge=16, le=128, description="length of a code")
    quantisation: float = Field(0.1, ge=0, description="weight of the distance of codes to their bits")
    balance: float = Field(0.1, ge=0, description="weight of a bit's being +1 as often as -1")
    temperature: float = Field(0.1, gt=0, description="of contrastive")


class Hash(Codes, ClassTrained):
    """``score = sign(f(x)) . sign(g(z)) = bits - 2 Hamming distance``, f and g networks of two layers under a tanh.

    Trained on the values of tanh, with `quantisation_loss` and `balance_loss` added; in use a vector is +1 and -1.
    With `objective` dcmh: `dcmh_loss`; ssah: `LabelTeacher`; djsrh: `JointSemantics`; contrastive: `contrastive_loss`;
    auto, by default: dcmh, of a set without classes contrastive, so that others can stand on it in any set.

    References
    ----------
    With each objective.
    """

    name = "hash"
    label = "hash codes"
    paper = "Jiang, Li: Deep Cross-Modal Hashing, CVPR 2017, arXiv:1602.02255"
    Settings: ClassVar[type[HashSettings]] = HashSettings
    takes_unaligned = True
    settings: HashSettings

    @property
    def needs(self) -> Needs:
        """Classes, where the objective reads them."""
        return Needs(labels=self.settings.objective in ("dcmh", "ssah"))

    def solve(self, pairs: TrainingPairs, validation: Validation | None, seed: int, watch: Watch) -> Maps:
        """Train the networks; see `Projection.solve`.

        Raises
        ------
        UserError
            If the objective needs classes and there are none, or one only.
        """
        chosen, draw = self.settings, torch.Generator().manual_seed(seed)
        objective = chosen.objective
        if objective == "auto":
            objective = "contrastive" if pairs.image_labels is None else "dcmh"
        classes = _classes(pairs, objective) if objective in ("dcmh", "ssah") else 0
        image, text = (
            network(table, chosen.hidden, chosen.bits, draw).append(nn.Tanh()) for table in (pairs.images, pairs.texts)
        )
        own = self._objective(objective, classes, (image[0], text[0]))
        if isinstance(own, nn.Module):
            drawn(own, draw).to(pairs.images.device)
        return self.learn((image, text), pairs, _Relaxed(own, chosen), validation, seed, watch)

    def _objective(self, name: str, classes: int, scalings: tuple[nn.Module, nn.Module]) -> Objective:
        chosen = self.settings
        if name == "ssah":
            return LabelTeacher(classes, chosen.hidden, chosen.bits)
        if name == "djsrh":
            return JointSemantics(scalings)
        if name == "contrastive":
            return lambda x, z, batch: contrastive_loss(x, z, batch.match, chosen.temperature)
        return lambda x, z, batch: dcmh_loss(x, z, batch.match)

    @property
    def config(self) -> dict[str, Any]:
        """The direction and the sizes of the networks."""
        return {**super().config, "bits": self.settings.bits}

    def blank(self, config: dict[str, Any]) -> Maps:
        """Return two networks whose tensors are still to be loaded."""
        image, text = (blank_network(dim, config["hidden"], config["bits"]).append(nn.Tanh()) for dim in self.dims)
        return image, text


def _classes(pairs: TrainingPairs, objective: str) -> int:
    if pairs.image_labels is None:
        raise UserError(
            f"objective={objective} learns from classes, and the set has none. Give images and texts a column "
            "'labels', or take an objective that needs none: contrastive or djsrh."
        )
    return class_count(pairs, f"objective={objective}")


class _Relaxed(nn.Module):
    """An objective with the terms that bring codes to their bits."""

    def __init__(self, own: Objective, settings: HashSettings) -> None:
        super().__init__()
        self.own, self.quantisation, self.balance = own, settings.quantisation, settings.balance

    def forward(self, image: Tensor, text: Tensor, batch: Batch) -> Tensor:
        apart = self.quantisation * quantisation_loss(image, text) + self.balance * balance_loss(image, text)
        value: Tensor = self.own(image, text, batch) + apart
        return value
