"""What the local heads share: trained on pairs, weighed against the first-stage score on lists that they never met."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
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
from rank_xmodal.lists.scoring import HeldOut, over_batches
from rank_xmodal.retrieval.query_bank import hubness, query_groups
from rank_xmodal.scorers.base import Scorer
from rank_xmodal.scorers.context_aware.combine import solved
from rank_xmodal.scorers.context_aware.features import centred, centred_and_deviation
from rank_xmodal.scorers.context_aware.solve import Lists, temperature
from rank_xmodal.scorers.local.bank import HeadBank
from rank_xmodal.scorers.local.fit import HINGE, train_head
from rank_xmodal.scorers.local.network import LocalNetwork
from rank_xmodal.scorers.local.pairing import OfLists
from rank_xmodal.scorers.settings import ListSettings
from rank_xmodal.training.watch import Watch

# What decides a head's weights beside the pairs; `loss` and what else is set decide what its score counts.
_OF_LISTS = {*ListSettings.model_fields, "folds", "residual"}

_HEAD, _BANK = "head.", "bank."  # before the names of tensors
FEATURES = ("", ", hubness", ", CSLS")
"""What a head says of a pair: its similarity, the candidate's hubness in it, and the first less half of the second."""
_SIMILARITY_ALONE = (0.0, 0.0, 1.0, 0.0)
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
    """``score = w . (first-stage score, its hubness, similarity, its hubness)``, the similarity that of a head.

    The head, over words and cells, is trained on pairs, both directions at once. What it may say is decided on training
    lists out of fold: a head that has seen a list's own pair makes the list look solved, and trained together with the
    first-stage score it would soon outvote it.

    Attributes
    ----------
    network : LocalNetwork or None
        None before `fit`.
    bank : HeadBank or None
        What hubness in the similarity is measured with; None before `fit`.
    weights : Tensor (4,)
    """

    Settings: ClassVar[type[LocalSettings]]
    settings: LocalSettings
    head: ClassVar[type[LocalNetwork]]

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self.network: LocalNetwork | None = None
        self.direction: Direction = "t2i"
        self.bank: HeadBank | None = None
        self.weights = torch.tensor(_SIMILARITY_ALONE)

    @property
    def needs(self) -> Needs:
        """Tokens, lists and, with residual, the first-stage score and its hubness."""
        first_stage = self.settings.residual
        return Needs(base=first_stage, neighbours=first_stage, lists=True, tokens=True)

    @property
    def out_of_fold(self) -> int | Literal["auto"] | None:
        """The inner folds that its training lists are scored by."""
        return self.settings.folds

    def fit_out_of_fold(
        self, knows: EmbeddingSet, direction: Direction, seed: int, device: torch.device
    ) -> Callable[[ListTensors], Tensor]:
        """Train a head on what `knows` has; return what gives lists of others their features, (Q, L, 4).

        Hubness of the first-stage score, and `FEATURES`.
        """
        other = type(self)(self.settings).trained_on(knows, direction, seed, device)

        def features(batch: ListBatch) -> Tensor:
            assert batch.tokens is not None
            own = other.features(batch.tokens)
            return torch.cat([hubness(batch.neighbour_cosine)[..., None].to(own), own], -1)

        return lambda lists: over_batches(lists.projected_by(other), features)

    def trained_on(self, data: EmbeddingSet, direction: Direction, seed: int, device: torch.device) -> Self:
        """Train the head on the pairs of the split train, or take it up from an earlier time."""
        self.direction = check_direction(direction)
        values = self.settings.model_dump(mode="json", exclude=_OF_LISTS)
        state = _trained(data, type(self), json.dumps(values, sort_keys=True), seed, str(device))
        self.network = _network(type(self), self.settings, state).to(device).eval()
        self.bank = HeadBank.of(self.network, data, direction, seed, device)
        return self

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
        """Train the head on all pairs, and solve for the weights on the held-out lists; see `Scorer.fit`.

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
        scores = self._weighed(lists.cosine, *lists.features[..., :3].unbind(-1))
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
        """Return what the head makes of each candidate's tokens; the last column of `whole` is its hubness."""
        found = self._encode(tokens, self.direction == "i2t")
        assert self.bank is not None
        hub = self.bank.hubness(self._fitted(), found, self.direction)
        return (Bag(found.values, found.mask, torch.cat([found.whole, hub[:, None]], 1)),)

    @torch.no_grad()
    def features(self, batch: LocalBatch, place: int = 0) -> Tensor:
        """Return `FEATURES`, (B, L, 3) float32; `place` is which of the batch's bags it looks at.

        Raises
        ------
        RuntimeError
            If it was not fitted.
        """
        captions = self.direction == "i2t"
        query = self._encode(batch.queries, not captions)
        found = batch.candidates[place] if batch.projected else self.project_tokens(batch.candidates[place])[0]
        candidates = Bag(found.values, found.mask, found.whole[:, :-1])
        images, texts = (query, candidates) if captions else (candidates, query)
        similarity = self._fitted().match(images, texts, OfLists(self.direction, batch.place)).float()
        hub = found.whole[:, -1][batch.place]
        return torch.stack([similarity, hub, similarity - hub / 2], -1)

    def _weighed(self, *values: Tensor) -> Tensor:
        return sum((weight * value for weight, value in zip(self.weights.to(values[0]), values, strict=True)))

    def score(self, batch: ListBatch) -> torch.Tensor:
        """Return the weighed scores, (B, L) float32.

        Raises
        ------
        RuntimeError
            If it was not fitted.
        """
        assert batch.tokens is not None
        own = self.features(batch.tokens)
        if not self.settings.residual:
            return own[..., 0]
        return self._weighed(batch.cosine, hubness(batch.neighbour_cosine), own[..., 0], own[..., 1])

    @property
    def config(self) -> dict[str, Any]:
        """The direction."""
        return {"direction": self.direction}

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """The head's tensors, its bank's, and the weights."""
        head = {} if self.network is None else self.network.state_dict()
        bank = {} if self.bank is None else self.bank.state()
        named = {_HEAD + name: value for name, value in head.items()}
        return {**named, **{_BANK + name: value for name, value in bank.items()}, "weights": self.weights}

    def load(self, config: dict[str, Any], state: dict[str, torch.Tensor]) -> Self:
        """Take over a head; see `Scorer.load`."""
        self.direction = check_direction(config["direction"])
        self.weights = state["weights"]
        head, bank = (
            {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
            for prefix in (_HEAD, _BANK)
        )
        self.network = _network(type(self), self.settings, head).eval()
        self.bank = HeadBank.read(bank)
        return self

    def to(self, device: torch.device) -> Self:
        """Move the head and its bank."""
        if self.network is not None and self.bank is not None:
            self.network.to(device)
            self.bank = self.bank.to(device)
        return self


def _weights(lists: ListTensors, group: np.ndarray, settings: LocalSettings) -> Tensor:
    """Return the weights (4,) of first-stage score, similarity and the hubness in each, solved for on held-out lists.

    Those of all but the first start at 0 and are penalised, and the inner folds choose how strongly: without evidence
    a head ranks as the first stage.
    """
    assert lists.features is not None
    assert lists.fold is not None
    taught = lists.instructive.cpu()
    if not bool(taught.any()):
        raise UserError("no training list holds both a relevant and a non-relevant candidate. Give train more items.")
    labels, features = lists.labels.cpu()[taught], lists.features.cpu()[taught]
    mask = labels >= 0
    z, deviation = centred_and_deviation(features, mask)
    base = centred(lists.cosine.cpu()[taught][..., None], mask)[..., 0]
    at = taught.numpy()
    held = Lists(z / deviation, base, labels, lists.fold.cpu().numpy()[at], group[lists.query_row.cpu().numpy()[at]])
    scale = temperature(held, losses.get("listnet"))
    function = losses.get(settings.loss, **settings.loss_params)
    _, solution = solved(replace(held, base=base * scale), settings.loss, function)
    hub, similarity, own_hub, csls = (solution / deviation.numpy()).tolist()
    return torch.tensor([scale, hub, similarity + csls, own_hub - csls / 2])


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
