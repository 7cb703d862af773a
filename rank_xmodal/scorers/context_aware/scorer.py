"""The Context-Aware Ranker as a scorer: its settings, and the network that they describe."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from rank_xmodal.lists.needs import Needs
from rank_xmodal.scorers.context_aware.ranker import ALL_BLOCKS, LEAN_BLOCKS, Block, ContextAwareRanker, RankerConfig
from rank_xmodal.scorers.list_trained import PAPER, SMALL, ListTrained, ListTrainedSettings


class ContextAwareSettings(ListTrainedSettings):
    """A key that is left out takes the default of its `features`."""

    features: Literal["full", "concat"] = Field("full", description="concat is the paper's recipe, to the letter")
    blocks: tuple[Block, ...] | None = Field(
        None, description="pair features; by default those of `features`, bilinear from 5,000 lists on"
    )
    without: tuple[Block, ...] = Field((), description="pair features to leave out of these")
    residual: bool | None = Field(None, description="add the first-stage score; None: with features full")

    @classmethod
    def defaults(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the paper's recipe for features=concat."""
        return PAPER if values.get("features") == "concat" else {}


class ContextAware(ListTrained):
    """The Context-Aware Ranker over pairs of embeddings; the network is `ContextAwareRanker`.

    References
    ----------
    Pobrotyn et al.: Context-Aware Learning to Rank with Self-Attention, SIGIR eCom 2020, arXiv 2005.10084.
    """

    name = "context_aware"
    label = "Context-Aware Ranker"
    paper = "Pobrotyn et al.: Context-Aware Learning to Rank with Self-Attention, 2020, arXiv:2005.10084"
    Settings: ClassVar[type[ContextAwareSettings]] = ContextAwareSettings
    settings: ContextAwareSettings

    @property
    def needs(self) -> Needs:
        """The network's needs; before it is fitted, whatever its settings may come to need."""
        if self.network is not None:
            return self.network.needs
        # For so many lists that every block has its place.
        network = self.network_config(dim=1, spread=1.0, lists=SMALL)
        return Needs(
            base=network.residual or not {"cosine", "hubness"}.isdisjoint(network.blocks),
            neighbours="hubness" in network.blocks,
            candidates=True,
            lists=True,
        )

    def network_config(self, dim: int, spread: float, lists: int) -> RankerConfig:
        """Return the network that the settings describe, for that many training lists."""
        chosen = self.settings
        full = chosen.features == "full"
        blocks = chosen.blocks or (("concat",) if not full else LEAN_BLOCKS if lists < SMALL else ALL_BLOCKS)
        return RankerConfig(
            dim=dim,
            blocks=tuple(block for block in blocks if block not in chosen.without),
            d_model=chosen.d_model,
            layers=chosen.layers,
            heads=chosen.heads,
            d_ff=chosen.d_ff,
            dropout=chosen.dropout,
            residual=full if chosen.residual is None else chosen.residual,
            spread=spread,
        )

    def build(self, config: RankerConfig) -> ContextAwareRanker:
        """Make the untrained network."""
        return ContextAwareRanker(config)
