"""allRank's own model and losses on our lists: the reference."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import nn

from rank_xmodal.errors import UserError
from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.needs import Needs
from rank_xmodal.scorers.context_aware.ranker import RankerConfig
from rank_xmodal.scorers.list_trained import PAPER, ListTrained, ListTrainedSettings
from rank_xmodal.torchvision_ops import make_importable
from rank_xmodal.training.loop import Network
from rank_xmodal.training.step import Loss


def _require() -> None:
    try:
        import allrank  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"scorer=allrank needs the package allRank, which can't be imported ({error}). "
            "Install it with `make setup`, or train our own with --scorer context_aware."
        ) from error
    make_importable()  # its data loading imports torchvision


class AllRankRanker(Network):
    """allRank 1.4.3's model, sized by our config, fed with the concatenation [query; candidate]."""

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        _require()
        from allrank.models.model import FCModel, LTRModel, OutputLayer
        from allrank.models.transformer import make_transformer

        self.config = config
        self.needs = Needs(candidates=True, lists=True)
        # A list of our own: FCModel inserts into the one it is given.
        fully_connected = FCModel([config.d_model], False, None, 0.0, n_features=2 * config.dim)
        encoder = make_transformer(
            N=config.layers,
            d_ff=config.d_ff,
            h=config.heads,
            dropout=config.dropout,
            n_features=config.d_model,
            positional_encoding=None,
        )
        self.model = LTRModel(fully_connected, encoder, OutputLayer(config.d_model, 1))
        for parameter in self.model.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, batch: ListBatch) -> torch.Tensor:
        """Return scores (B, L), float32."""
        pair = torch.cat([batch.query[:, None].expand_as(batch.candidates), batch.candidates], dim=-1)
        places = torch.arange(pair.shape[1], device=pair.device).expand(pair.shape[:2])
        return self.model(pair, ~batch.mask, places).float()


def allrank_loss(name: str) -> Loss:
    """Return allRank's loss of this name as it ships, its own defaults included: (B, L), (B, L) -> scalar.

    Raises
    ------
    UserError
        If allRank has no such loss or isn't installed.
    """
    _require()
    from allrank.models import losses

    def lambdarank(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return losses.lambdaLoss(scores, labels, weighing_scheme="lambdaRank_scheme")

    functions = SimpleNamespace(
        lambdarank=lambdarank, neuralndcg=losses.neuralNDCG, listnet=losses.listNet, ranknet=losses.rankNet
    )
    function = getattr(functions, name, None)
    if function is None:
        raise UserError(f"loss={name!r}: allRank has no such loss; it has {', '.join(vars(functions))}.")
    return lambda scores, labels: function(scores, labels.float())


class AllRankSettings(ListTrainedSettings):
    """The paper's recipe, which is what allRank's own examples do."""

    @classmethod
    def defaults(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the recipe."""
        return PAPER


class AllRank(ListTrained):
    """allRank's Context-Aware Ranker and its own losses, trained on our lists by the paper's recipe.

    References
    ----------
    Pobrotyn et al.: Context-Aware Learning to Rank with Self-Attention, SIGIR eCom 2020, arXiv 2005.10084.
    """

    name = "allrank"
    label = "allRank"
    paper = "Pobrotyn et al.: Context-Aware Learning to Rank with Self-Attention, 2020, arXiv:2005.10084; allRank 1.4.3"
    Settings: ClassVar[type[AllRankSettings]] = AllRankSettings
    settings: AllRankSettings

    @property
    def needs(self) -> Needs:
        """Lists and embeddings."""
        return Needs(candidates=True, lists=True)

    def network_config(self, dim: int, spread: float, lists: int) -> RankerConfig:
        """Return the sizes."""
        chosen = self.settings
        return RankerConfig(
            dim=dim,
            blocks=("concat",),
            d_model=chosen.d_model,
            layers=chosen.layers,
            heads=chosen.heads,
            d_ff=chosen.d_ff,
            dropout=chosen.dropout,
            residual=False,
            spread=spread,
        )

    def build(self, config: RankerConfig) -> AllRankRanker:
        """Make the untrained network."""
        return AllRankRanker(config)

    def loss(self) -> Loss:
        """Return allRank's own."""
        return allrank_loss(self.settings.loss)
