"""allRank's own model and losses on our lists: the reference, a row of its own in every comparison."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import nn

from rank_xmodal.errors import UserError
from rank_xmodal.ranker import ListBatch, RankerConfig
from rank_xmodal.torchvision_ops import make_importable


def _require() -> None:
    try:
        import allrank  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"ranker=allrank needs the package allRank, which can't be imported ({error}). "
            "Install it with `make setup`, or train our own with --set ranker=rank_xmodal."
        ) from error
    make_importable()  # its data loading imports torchvision


class AllRankRanker(nn.Module):
    """allRank 1.4.3's model, sized by our config, fed with the concatenation [query; candidate]."""

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        _require()
        from allrank.models.model import FCModel, LTRModel, OutputLayer
        from allrank.models.transformer import make_transformer

        self.config = config
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


def allrank_loss(name: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
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
