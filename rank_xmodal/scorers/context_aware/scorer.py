"""The Context-Aware Ranker as a scorer: its settings, and the network that they describe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from rank_xmodal.data.embedding_set import Direction, EmbeddingSet, check_direction
from rank_xmodal.errors import UserError, did_you_mean
from rank_xmodal.lists.bags import Bag
from rank_xmodal.lists.list_tensors import ListTensors
from rank_xmodal.lists.needs import Needs
from rank_xmodal.retrieval.query_bank import query_groups
from rank_xmodal.scorers.base import Scorer
from rank_xmodal.scorers.context_aware.combine import combine, held_out_features
from rank_xmodal.scorers.context_aware.evidence import FEATURES, Evidence, Score, of_scores
from rank_xmodal.scorers.context_aware.ranker import ALL_BLOCKS, LEAN_BLOCKS, Block, ContextAwareRanker, RankerConfig
from rank_xmodal.scorers.context_aware.score_ranker import ScoreRanker, ScoreRankerConfig
from rank_xmodal.scorers.context_aware.solve import any_on_top
from rank_xmodal.scorers.list_trained import PAPER, SMALL, ListTrained, ListTrainedSettings
from rank_xmodal.scorers.local.base import FEATURES as OF_A_HEAD
from rank_xmodal.scorers.local.base import Local
from rank_xmodal.scorers.local.heads import HEADS
from rank_xmodal.training.loop import Network
from rank_xmodal.training.step import Loss

Features = Literal["full", "embeddings", "concat"]
_OF_EMBEDDINGS = ("blocks", "without", "residual")


def _said(value: Any) -> bool:
    return value not in (None, (), [], "auto")


class ContextAwareSettings(ListTrainedSettings):
    """A key that is left out takes the default of its `features`."""

    features: Features = Field(
        "full", description="cross-fitted scores; the pair's embeddings; concat is the paper's recipe, to the letter"
    )
    scores: tuple[Score, ...] | None = Field(None, min_length=1, description="full: which; by default all")
    local: tuple[str, ...] = Field((), description="full: heads over words and cells whose scores join, by name")
    folds: Annotated[int, Field(ge=2)] | Literal["auto"] = Field(
        "auto", description="full: inner folds that the scores are fitted on; auto: 5, from 1,000 training images on 2"
    )
    blocks: tuple[Block, ...] | None = Field(
        None, description="pair features; by default those of `features`, bilinear from 5,000 lists on"
    )
    without: tuple[Block, ...] = Field((), description="pair features to leave out of these")
    residual: bool | None = Field(None, description="add the first-stage score; None: with features embeddings")

    @classmethod
    def defaults(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the paper's recipe for features=concat; what only a ranker of embeddings has makes it one."""
        features = values.get("features")
        if features == "concat":
            return PAPER
        if features is None and (
            values.get("on", "clip") != "clip" or any(_said(values.get(key)) for key in _OF_EMBEDDINGS)
        ):
            return {"features": "embeddings"}
        return {"layers": 0} if features in (None, "full") else {}

    @model_validator(mode="after")
    def _known_to_its_features(self) -> Self:
        wrong = _OF_EMBEDDINGS if self.features == "full" else ("scores", "local", "folds")
        for key in wrong:
            if _said(getattr(self, key)):
                other = "embeddings" if self.features == "full" else "full"
                raise ValueError(f"{key} is a setting of features={other}, not of features={self.features}")
        return self

    @field_validator("local")
    @classmethod
    def _known_heads(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for place, name in enumerate(value):
            if name not in HEADS:
                raise ValueError(f"no such head: {name!r}.{did_you_mean(name, HEADS)} Known are {', '.join(HEADS)}")
            if name in value[:place]:
                raise ValueError(f"{name!r} stands there twice; name each head once")
        return value


class ContextAware(ListTrained):
    """The Context-Aware Ranker, by default over cross-fitted scores of a pair; else over its embeddings.

    The network is `ScoreRanker` or `ContextAwareRanker`. Cross-fitted: the training lists are held-out queries against
    held-out candidates, scored by maps that have met neither; in use the maps are those of all training pairs.

    References
    ----------
    Pobrotyn et al.: Context-Aware Learning to Rank with Self-Attention, SIGIR eCom 2020, arXiv 2005.10084. Over scores:
    Wolpert: Stacked Generalization, Neural Networks 1992.
    """

    name = "context_aware"
    label = "Context-Aware Ranker"
    paper = "Pobrotyn et al.: Context-Aware Learning to Rank with Self-Attention, 2020, arXiv:2005.10084"
    Settings: ClassVar[type[ContextAwareSettings]] = ContextAwareSettings
    settings: ContextAwareSettings

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self.direction: Direction = "t2i"

    @property
    def over_scores(self) -> bool:
        """Whether it ranks by cross-fitted scores."""
        return self.settings.features == "full" if self.network is None else isinstance(self.network, ScoreRanker)

    @property
    def needs(self) -> Needs:
        """The network's needs; before it is fitted, whatever its settings may come to need."""
        if self.network is not None:
            return self.network.needs
        if self.over_scores:
            return Needs(candidates=True, lists=True, tokens=bool(self.settings.local))
        # For so many lists that every block has its place.
        network = self.network_config(dim=1, spread=1.0, lists=SMALL)
        assert isinstance(network, RankerConfig)
        return Needs(
            base=network.residual or not {"cosine", "hubness"}.isdisjoint(network.blocks),
            neighbours="hubness" in network.blocks,
            candidates=True,
            lists=True,
        )

    @property
    def out_of_fold(self) -> int | Literal["auto"] | None:
        """The inner folds that its training lists are scored by."""
        return self.settings.folds if self.over_scores else None

    def fit_out_of_fold(
        self, knows: EmbeddingSet, direction: Direction, seed: int, device: torch.device
    ) -> Callable[[ListTensors], torch.Tensor]:
        """Fit the scores on what `knows` has as train; return what gives lists of others their features, (Q, L, F)."""
        evidence = Evidence.fit(knows, direction, seed, device)
        heads = [head.fit_out_of_fold(knows, direction, seed, device) for head in self._heads()]

        def features(lists: ListTensors) -> torch.Tensor:
            found = held_out_features(evidence, replace(lists, tokens=None))  # tokens are for the heads alone
            # The hubness of the cosine is known already.
            return torch.cat([found, *(of_head(lists)[..., 1:] for of_head in heads)], -1)

        return features

    def _heads(self) -> tuple[Local, ...]:
        return tuple(HEADS[name](device=self.settings.device) for name in self.settings.local)

    def network_config(self, dim: int, spread: float, lists: int) -> RankerConfig | ScoreRankerConfig:
        """Return the network that the settings describe, for that many training lists."""
        chosen = self.settings
        sizes = {key: getattr(chosen, key) for key in ("d_model", "layers", "heads", "d_ff", "dropout")}
        if chosen.features == "full":
            return ScoreRankerConfig(**sizes, local=chosen.local)
        concat = chosen.features == "concat"
        blocks = chosen.blocks or (("concat",) if concat else LEAN_BLOCKS if lists < SMALL else ALL_BLOCKS)
        return RankerConfig(
            dim=dim,
            blocks=tuple(block for block in blocks if block not in chosen.without),
            residual=not concat if chosen.residual is None else chosen.residual,
            spread=spread,
            **sizes,
        )

    def read_config(self, config: dict[str, Any]) -> RankerConfig | ScoreRankerConfig:
        """Return a network's sizes; which network they are of they tell."""
        if "features" not in config:
            return RankerConfig(**{**config, "blocks": tuple(config["blocks"])})
        if tuple(config["features"]) != FEATURES:
            raise ValueError("its scores are those of another version")
        local = tuple(config.get("local", ()))
        if any(name not in HEADS for name in local):
            raise ValueError(f"its heads over words and cells are {', '.join(local)}")
        return ScoreRankerConfig(**{**config, "features": FEATURES, "local": local})

    def build(self, config: RankerConfig | ScoreRankerConfig) -> Network:
        """Make the untrained network."""
        return ScoreRanker(config) if isinstance(config, ScoreRankerConfig) else ContextAwareRanker(config)

    def loss(self) -> Loss:
        """Return the loss that the settings name; over scores any relevant item on top is enough for it."""
        function = super().loss()
        if not self.over_scores:
            return function
        return lambda scores, labels: function(*any_on_top(scores, labels))

    def start(self, data: EmbeddingSet, direction: Direction, lists: ListTensors, seed: int) -> None:
        """Solve for the weights of the scores on the held-out lists, and fit the scores on all training pairs.

        A validation chooses nothing here: the inner folds do.

        Raises
        ------
        UserError
            If the lists have no features.
        """
        if not isinstance(self.network, ScoreRanker):
            return
        if lists.features is None or lists.fold is None:
            raise UserError(
                f"scorer={self.name}, features=full is trained on lists of inner folds. Train it with "
                "`rank-xmodal train`, or over embeddings with features=embeddings."
            )
        taught = lists.instructive.cpu()
        group = query_groups(data, direction)[lists.query_row.cpu().numpy()]
        local = (head + feature for head in self.settings.local for feature in OF_A_HEAD)
        found = combine(
            lists.features.cpu()[taught], lists.labels.cpu()[taught], lists.fold.cpu().numpy()[taught.numpy()],
            group[taught.numpy()], self.settings.loss, super().loss(),
            {**of_scores(self.settings.scores), **dict.fromkeys(local, True)},
        )  # fmt: skip
        heads, device = self._heads(), lists.rows.device
        for head in heads:
            head.trained_on(data, direction, seed, device)
        self.network.take(found, Evidence.fit(data, direction, seed, device), heads)
        self.direction = direction

    @property
    def parts(self) -> dict[str, Scorer]:
        """Over scores: VSE++ with CSLS on top, the best of what needs no lists."""
        if not isinstance(self.network, ScoreRanker):
            return {}
        other = type(self)(self.settings)
        other.network = self.network.alone("vsepp, CSLS")
        return {"csls_on_vsepp": other}

    def project_tokens(self, tokens: Bag) -> tuple[Bag, ...]:
        """Return what each head makes of the candidates' tokens."""
        return self._fitted().project_tokens(tokens)

    @property
    def config(self) -> dict[str, Any]:
        """The network's sizes; with heads the direction and their settings, too: another version has other defaults."""
        sizes = super().config
        if not isinstance(self.network, ScoreRanker) or not self.network.heads:
            return sizes
        settings = {head.name: head.settings.model_dump(mode="json") for head in self.network.heads}
        return {**sizes, "direction": self.direction, "local_settings": settings}

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """The network's weights, and the maps behind its scores."""
        return self.network.tensors() if isinstance(self.network, ScoreRanker) else super().state

    def load(self, config: dict[str, Any], state: dict[str, torch.Tensor]) -> Self:
        """Take over a network; see `Scorer.load`."""
        if "features" not in config:
            return super().load(config, state)
        self.direction = check_direction(config.get("direction", "t2i"))
        told = config.get("local_settings", {})
        sizes = {key: value for key, value in config.items() if key not in ("direction", "local_settings")}
        self.network_of = self.read_config(sizes)
        heads = tuple(
            HEADS[name](HEADS[name].Settings.checked(told[name], name, "local_settings"))
            for name in self.network_of.local
        )
        self.network = ScoreRanker(self.network_of).load_tensors(state, heads, self.direction).eval()
        return self

    def to(self, device: torch.device) -> Self:
        """Move the network, and the maps behind its scores."""
        super().to(device)
        if isinstance(self.network, ScoreRanker) and self.network.evidence is not None:
            self.network.evidence = self.network.evidence.to(device)
            for head in self.network.heads:
                head.to(device)
        return self
