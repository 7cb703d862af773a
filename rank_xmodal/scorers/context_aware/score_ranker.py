"""The ranker over cross-fitted scores: a linear combination, and a network on top where it is asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import nn
from typing_extensions import Self

from rank_xmodal.data.embedding_set import Direction
from rank_xmodal.lists.bags import Bag
from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.needs import Needs
from rank_xmodal.scorers.context_aware.combine import Combination
from rank_xmodal.scorers.context_aware.evidence import FEATURES, Evidence
from rank_xmodal.scorers.context_aware.features import centred
from rank_xmodal.scorers.context_aware.ranker import EncoderLayer, encoded
from rank_xmodal.scorers.local.base import FEATURES as OF_A_HEAD
from rank_xmodal.scorers.local.base import Local
from rank_xmodal.training.loop import Network

_PREFIX, _LOCAL = "evidence.", "local."  # before the names of tensors that are not the network's own


@dataclass(frozen=True)
class ScoreRankerConfig:
    """Sizes of a ranker over scores.

    Attributes
    ----------
    d_model, layers, heads, d_ff, dropout
        Of the network on top; without layers there is none.
    features : tuple of str
        By which a ranker of another version is told.
    local : tuple of str
        The heads over words and cells whose scores stand behind these features, by name.
    """

    d_model: int
    layers: int
    heads: int
    d_ff: int
    dropout: float
    features: tuple[str, ...] = FEATURES
    local: tuple[str, ...] = ()


class ScoreRanker(Network):
    """``score = weight . f + linear(encoder(f))``, f the features of `evidence`, less their mean in the list.

    The weights are solved for (`combine`) before anything is trained, and stay; the last layer starts at zero, so an
    untrained network ranks as the combination.

    Attributes
    ----------
    evidence : Evidence or None
        What the features come from; None before `take`.
    heads : tuple of Local
        Those of the config, fitted.
    penalty : float
        Of the combination, see there; not saved.
    """

    weight: torch.Tensor
    unit: torch.Tensor

    def __init__(self, config: ScoreRankerConfig) -> None:
        super().__init__()
        self.config = config
        self.needs = Needs(candidates=True, lists=True, tokens=bool(config.local))
        self.evidence: Evidence | None = None
        self.heads: tuple[Local, ...] = ()
        count = len(config.features) + len(OF_A_HEAD) * len(config.local)
        self.penalty = float("inf")
        self.register_buffer("weight", torch.zeros(count))
        self.register_buffer("unit", torch.ones(count))
        if config.layers:
            self.input = nn.Linear(count, config.d_model)
            self.layers = nn.ModuleList(
                EncoderLayer(config.d_model, config.heads, config.d_ff, config.dropout) for _ in range(config.layers)
            )
            self.norm = nn.LayerNorm(config.d_model)
            self.output = nn.Linear(config.d_model, 1, bias=False)  # the same for a whole list ranks nothing
            nn.init.zeros_(self.output.weight)

    def take(self, combination: Combination, evidence: Evidence, heads: tuple[Local, ...] = ()) -> Self:
        """Take over weights, and the scores of use."""
        self.heads = heads
        self.weight, self.unit = combination.weight.to(self.weight), combination.unit.to(self.unit)
        self.penalty, self.evidence = combination.penalty, evidence
        return self

    def _known(self) -> Evidence:
        if self.evidence is None:
            raise RuntimeError(f"{type(self).__name__}: take comes before score.")
        return self.evidence

    @torch.no_grad()
    def project(self, candidates: torch.Tensor) -> torch.Tensor:
        """Return what each candidate alone decides, (m, d) of any float -> (m, d + 16) float32."""
        return self._known().of_candidates(candidates)

    @torch.no_grad()
    def project_tokens(self, tokens: Bag) -> tuple[Bag, ...]:
        """Return what each head makes of the candidates' tokens."""
        return tuple(bag for head in self.heads for bag in head.project_tokens(tokens))

    @torch.no_grad()
    def features(self, batch: ListBatch) -> torch.Tensor:
        """Return the features, centred in the list, (B, L, F); training lists bring their own."""
        found = batch.features
        if found is None:
            evidence, alone = self._known(), batch.projected
            if alone is None:
                alone = evidence.of_candidates(batch.candidates.flatten(0, 1)).unflatten(0, batch.mask.shape)
            found = evidence.features(batch.query, batch.candidates, alone)
            for place, head in enumerate(self.heads):
                assert batch.tokens is not None
                own = head.features(batch.tokens, place if batch.tokens.projected else 0)
                found = torch.cat([found, own], -1)
        return centred(found, batch.mask)

    def forward(self, batch: ListBatch) -> torch.Tensor:
        """Return scores (B, L), float32; padding's are meaningless and change no other."""
        found = self.features(batch)
        scores = found @ self.weight
        if self.config.layers:
            x = encoded(self.layers, self.input(found * self.unit), batch.mask)
            scores = scores + self.output(self.norm(x)).squeeze(-1).float()
        return scores

    def alone(self, feature: str) -> ScoreRanker:
        """Return a ranker by one of the features."""
        other = ScoreRanker(ScoreRankerConfig(**{**asdict(self.config), "layers": 0, "local": ()}))
        other.weight[FEATURES.index(feature)] = 1.0
        other.evidence = self.evidence
        return other.eval()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return its own tensors and those of the scores, by name."""
        maps = {} if self.evidence is None else self.evidence.state()
        local = {f"{_LOCAL}{head.name}.{name}": value for head in self.heads for name, value in head.state.items()}
        return {**self.state_dict(), **{_PREFIX + name: value for name, value in maps.items()}, **local}

    def load_tensors(self, state: dict[str, torch.Tensor], heads: tuple[Local, ...], direction: Direction) -> Self:
        """Take over what `tensors` gave; `heads` are those of the config, not fitted."""

        def under(prefix: str) -> dict[str, torch.Tensor]:
            return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}

        self.heads = tuple(head.load({"direction": direction}, under(f"{_LOCAL}{head.name}.")) for head in heads)
        self.load_state_dict({k: v for k, v in state.items() if not k.startswith((_PREFIX, _LOCAL))})
        self.evidence = Evidence(**under(_PREFIX))
        return self
