"""What the local heads share: trained on pairs, weighed against the first-stage score on lists that they never met."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor
from typing_extensions import Self

from rank_xmodal import losses
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet, check_direction
from rank_xmodal.data.kept_fits import kept_fit
from rank_xmodal.data.memo import memo
from rank_xmodal.errors import UserError, did_you_mean
from rank_xmodal.evaluation.judging import mean
from rank_xmodal.files import sha256
from rank_xmodal.lists.bags import Bag
from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.list_tensors import ListTensors
from rank_xmodal.lists.list_tokens import LocalBatch, tables_of
from rank_xmodal.lists.needs import Needs
from rank_xmodal.lists.scoring import HeldOut, score_lists
from rank_xmodal.retrieval.query_bank import query_groups
from rank_xmodal.scorers.base import Scorer
from rank_xmodal.scorers.context_aware.combine import solved
from rank_xmodal.scorers.context_aware.features import centred, centred_and_deviation
from rank_xmodal.scorers.context_aware.solve import Lists, temperature
from rank_xmodal.scorers.local.fit import HINGE, train_head
from rank_xmodal.scorers.local.network import LocalNetwork
from rank_xmodal.scorers.local.pairing import OfLists
from rank_xmodal.scorers.settings import ListSettings
from rank_xmodal.training.watch import Watch

# What decides a head's weights beside the pairs; `loss` and what else is set decide what its score counts.
_OF_LISTS = {*ListSettings.model_fields, "folds", "residual"}

_HEAD = "head."  # before the names of its tensors
_SEEN = 2_000  # training lists that the loss is told of


class LocalSettings(ListSettings):
    """How a head is trained on pairs (objective to without), and weighed on lists."""

    objective: str = Field("softmax", description="in a batch of pairs: a loss of lists, or max_of_hinges")
    width: int = Field(128, ge=1, le=65_536, description="that words and cells are mapped to")
    steps: int = Field(600, ge=0, description="of the training")
    batch_size: int = Field(64, ge=2, description="pairs in a step")
    lr: float = Field(2e-3, gt=0, le=100, description="largest of the schedule")
    weight_decay: float = Field(0.1, ge=0, le=10_000, description="AdamW's, times the learning rate")
    dropout: float = Field(0.2, ge=0, lt=1, description="share of a token's entries left out in training")
    without: float = Field(0.2, ge=0, lt=1, description="share of an item's tokens left out in training")
    residual: bool = Field(True, description="add to the first-stage score")
    folds: Annotated[int, Field(ge=2)] | Literal["auto"] = Field(
        "auto", description="inner folds that the lists are scored by; auto: 5, from 1,000 training images on 2"
    )

    @field_validator("objective")
    @classmethod
    def _known_objective(cls, value: str) -> str:
        known = [HINGE, *losses.names()]
        if value not in known:
            raise ValueError(f"no such objective.{did_you_mean(value, known)} Known are {', '.join(known)}")
        return value


class Local(Scorer):
    """``score = a * first-stage score + b * similarity``, the similarity that of a head over words and cells.

    The head is trained on pairs, both directions at once. What it may say is decided on training lists out of fold: a
    head that has seen a list's own pair makes the list look solved, and trained together with the first-stage score it
    would soon outvote it.

    Attributes
    ----------
    network : LocalNetwork or None
        None before `fit`.
    """

    Settings: ClassVar[type[LocalSettings]]
    settings: LocalSettings
    head: ClassVar[type[LocalNetwork]]

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self.network: LocalNetwork | None = None
        self.direction: Direction = "t2i"
        self.weights = torch.tensor([1.0, 1.0])

    @property
    def needs(self) -> Needs:
        """Tokens, lists and, with residual, the first-stage score."""
        return Needs(base=self.settings.residual, lists=True, tokens=True)

    @property
    def out_of_fold(self) -> int | Literal["auto"] | None:
        """The inner folds that its training lists are scored by."""
        return self.settings.folds

    def held_out_features(
        self, knows: EmbeddingSet, direction: Direction, lists: ListTensors, seed: int
    ) -> torch.Tensor:
        """Return the similarities of training lists, (Q, L, 1), by a head that was trained on what `knows` has."""
        other = type(self)(self.settings)
        other.trained_on(knows, direction, seed, lists.rows.device)
        other.weights = torch.tensor([0.0, 1.0])
        return score_lists(other, lists)[..., None].to(lists.rows.device)

    def trained_on(self, data: EmbeddingSet, direction: Direction, seed: int, device: torch.device) -> None:
        """Train the head on the pairs of the split train, or take it up from an earlier time."""
        self.direction = check_direction(direction)
        values = self.settings.model_dump(mode="json", exclude=_OF_LISTS)
        state = _trained(data, type(self), json.dumps(values, sort_keys=True), seed, str(device))
        self.network = _network(type(self), self.settings, state).to(device).eval()

    def fit(
        self,
        data: EmbeddingSet,
        direction: Direction,
        *,
        lists: ListTensors | None = None,
        validation: HeldOut | None = None,
        seed: int = 0,
        watch: Watch | None = None,
    ) -> Self:
        """Train the head on all pairs, and solve for the two weights on the held-out lists; see `Scorer.fit`.

        A validation chooses nothing here: the inner folds do.

        Raises
        ------
        UserError
            If the lists have no features, or as `train_head`.
        """
        if lists is None or lists.features is None or lists.fold is None:
            raise UserError(
                f"scorer={self.name} is weighed on lists of inner folds. Train it with `rank-xmodal train`."
            )
        self.trained_on(data, direction, seed, lists.rows.device)
        if self.settings.residual:
            self.weights = _weights(lists, query_groups(data, direction), self.settings)
        self.history = [self._figures(lists, validation)]
        (watch or Watch()).on_epoch(self.history[0])
        return self

    def _figures(self, lists: ListTensors, validation: HeldOut | None) -> dict[str, float]:
        """Return the loss of the weighed scores on training lists, out of fold, and how they do on a validation."""
        assert lists.features is not None
        loss = losses.get(self.settings.loss, **self.settings.loss_params)
        scores = self._weighed(lists.cosine, lists.features[..., 0])
        figures = {"epoch": 0, "loss": float(loss(scores[:_SEEN], lists.labels[:_SEEN]))}
        if validation is not None:
            figures |= {f"val_{key}": value for key, value in mean(validation.judge(self)).items()}
        return figures

    def _fitted(self) -> LocalNetwork:
        if self.network is None:
            raise RuntimeError(f"{type(self).__name__}: fit comes before score.")
        return self.network

    def _encode(self, tokens: Bag, captions: bool) -> Bag:
        network = self._fitted()
        return network.encode_text(tokens) if captions else network.encode_image(tokens)

    @torch.no_grad()
    def project_tokens(self, tokens: Bag) -> tuple[Bag, ...]:
        """Return what the head makes of each candidate's tokens."""
        return (self._encode(tokens, self.direction == "i2t"),)

    @torch.no_grad()
    def similarity(self, batch: LocalBatch, place: int = 0) -> Tensor:
        """Return the head's own similarity, (B, L) float32; `place` is which of the batch's bags it looks at.

        Raises
        ------
        RuntimeError
            If it was not fitted.
        """
        captions = self.direction == "i2t"
        query = self._encode(batch.queries, not captions)
        found = batch.candidates[place]
        candidates = found if batch.projected else self._encode(found, captions)
        images, texts = (query, candidates) if captions else (candidates, query)
        return self._fitted().match(images, texts, OfLists(self.direction, batch.place)).float()

    def _weighed(self, first_stage: Tensor, similarity: Tensor) -> Tensor:
        own = self.weights[1].to(similarity) * similarity
        return own + self.weights[0].to(similarity) * first_stage if self.settings.residual else own

    def score(self, batch: ListBatch) -> torch.Tensor:
        """Return the weighed scores, (B, L) float32.

        Raises
        ------
        RuntimeError
            If it was not fitted.
        """
        assert batch.tokens is not None
        return self._weighed(batch.cosine, self.similarity(batch.tokens))

    @property
    def config(self) -> dict[str, Any]:
        """The direction."""
        return {"direction": self.direction}

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """The head's tensors, and the two weights."""
        head = {} if self.network is None else self.network.state_dict()
        return {**{_HEAD + name: value for name, value in head.items()}, "weights": self.weights}

    def load(self, config: dict[str, Any], state: dict[str, torch.Tensor]) -> Self:
        """Take over a head; see `Scorer.load`."""
        self.direction = check_direction(config["direction"])
        self.weights = state["weights"]
        head = {name[len(_HEAD) :]: value for name, value in state.items() if name.startswith(_HEAD)}
        self.network = _network(type(self), self.settings, head).eval()
        return self

    def to(self, device: torch.device) -> Self:
        """Move the head."""
        if self.network is not None:
            self.network.to(device)
        return self


def _weights(lists: ListTensors, group: np.ndarray, settings: LocalSettings) -> Tensor:
    """Return the weights (2,) of the first-stage score and of the similarity, solved for on held-out lists.

    The similarity's starts at 0 and is penalised, and the inner folds choose how strongly: without evidence a head
    ranks as the first stage.
    """
    assert lists.features is not None
    assert lists.fold is not None
    taught = lists.instructive.cpu()
    if not bool(taught.any()):
        raise UserError("no training list holds both a relevant and a non-relevant candidate. Give train more items.")
    labels, feature = lists.labels.cpu()[taught], lists.features.cpu()[taught]
    mask = labels >= 0
    z, deviation = centred_and_deviation(feature, mask)
    base = centred(lists.cosine.cpu()[taught][..., None], mask)[..., 0]
    at = taught.numpy()
    held = Lists(z / deviation, base, labels, lists.fold.cpu().numpy()[at], group[lists.query_row.cpu().numpy()[at]])
    scale = temperature(held, losses.get("listnet"))
    function = losses.get(settings.loss, **settings.loss_params)
    _, w = solved(replace(held, base=base * scale), settings.loss, function)
    return torch.tensor([scale, float(w[0] / deviation[0])])


def _network(kind: type[Local], settings: LocalSettings, state: dict[str, Tensor]) -> LocalNetwork:
    """Return a head with these tensors."""
    with torch.random.fork_rng([]):  # what is drawn for its start is thrown away
        network = kind.head(state["image.mean"].shape[0], state["text.mean"].shape[0], settings)
    network.load_state_dict(state)
    return network


def _tokens_of(data: EmbeddingSet) -> str:
    return str((data.whole.meta.get("tokens") or {}).get("fingerprint"))


@memo(most=16, of=lambda data: (data.fingerprint, _tokens_of(data)))  # for the next loss or direction
def _trained(data: EmbeddingSet, kind: type[Local], values: str, seed: int, device: str) -> dict[str, Tensor]:
    """Return the tensors of a head trained on a split train."""
    settings = kind.Settings.checked(json.loads(values), kind.name)

    def make() -> dict[str, Tensor]:
        images, texts = tables_of(data)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = kind.head(images.width, texts.width, settings).to(device)
        train_head(network, data, seed)
        network.requires_grad_(False)
        return {name: value.detach() for name, value in network.state_dict().items()}

    own = sha256(Path(inspect.getfile(kind)).read_bytes())  # a head of another package lies elsewhere
    what = [kind.name, own, values, seed, _tokens_of(data)]
    return kept_fit(data, what, Path(__file__).parent, device, make)
