"""The Context-Aware Ranker (Pobrotyn et al. 2020, arXiv 2005.10084) over pairs of frozen embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import nn

from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.needs import Needs
from rank_xmodal.scorers.context_aware.attention import attention
from rank_xmodal.scorers.context_aware.dropout import dropout
from rank_xmodal.scorers.context_aware.features import cosine_features, hubness_features, penalties
from rank_xmodal.training.loop import Network

Block = Literal["concat", "product", "cosine", "hubness", "bilinear"]
ALL_BLOCKS: tuple[Block, ...] = get_args(Block)
# What a small training set can bear; `bilinear` has the most to learn.
LEAN_BLOCKS: tuple[Block, ...] = ("concat", "product", "cosine", "hubness")
_RANK = 64  # of the bilinear block's two maps
_SCALARS = {"cosine": 3, "hubness": 7}
_SHORT = 64  # places up to which our own attention is faster than PyTorch's fused kernel: twice at 51 (two threads)
# The two weights of the hubness correction move this many times faster than the rest: they are worth most of what a
# small training set can teach, and at the common rate they would arrive when the rest has begun to overfit.
_FAST = 20.0


@dataclass(frozen=True)
class RankerConfig:
    """Sizes and parts of a ranker.

    Attributes
    ----------
    dim : int
        Width d of an embedding.
    blocks : tuple of str
        The pair features: "concat" [image; text], "product" image x text, "cosine" and "hubness" (see `features`); and
        "bilinear", a learnt correction of the cosine itself.
    d_model, layers, heads, d_ff, dropout
        Input layer, encoder layers, attention heads, feed-forward width; the paper's are 64, 2, 4, 128, 0.1.
    residual : bool
        Add the first-stage score to the output, whose last layer starts at zero.
    spread : float
        Typical standard deviation of the first-stage score within a list; the unit of the residual score.
    """

    dim: int
    blocks: tuple[Block, ...] = LEAN_BLOCKS
    d_model: int = 64
    layers: int = 2
    heads: int = 4
    d_ff: int = 128
    dropout: float = 0.1
    residual: bool = True
    spread: float = 0.03


class EncoderLayer(nn.Module):
    """A pre-norm transformer layer without positions: permuting the list permutes the output."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm_attention = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.norm_forward = nn.LayerNorm(d_model)
        self.up = nn.Linear(d_model, d_ff)
        self.down = nn.Linear(d_ff, d_model)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Map (B, L, d_model) to the same shape; `mask` is (B, L), True where a key may be seen."""
        rate = self.dropout if self.training else 0.0
        b, length, width = x.shape
        qkv = self.qkv(self.norm_attention(x))
        if x.device.type == "cpu" and (rate or length <= _SHORT):
            seen = attention(qkv, self.heads, rate, mask)
        else:
            q, k, v = qkv.view(b, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
            keys = None if mask is None else mask[:, None, None, :]
            seen = F.scaled_dot_product_attention(q, k, v, attn_mask=keys, dropout_p=rate)
            seen = seen.transpose(1, 2).reshape(b, length, width)
        x = x + dropout(self.out(seen), rate)
        hidden = dropout(F.relu(self.up(self.norm_forward(x))), rate)
        return x + dropout(self.down(hidden), rate)


def encoded(layers: nn.ModuleList, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return (B, L, d_model) as the layers make it of the list, whose padding (B, L) nobody sees."""
    # A list of padding alone would attend to nothing and give NaN: let it see itself, nobody reads its scores.
    seen = None if bool(mask.all()) else mask | ~mask.any(-1, keepdim=True)
    for layer in layers:
        x = layer(x, seen)
    return x


class LowRank(nn.Module):
    """x -> B A x / sqrt(r), (..., d) -> (..., d): A random, B zero at the start (as in LoRA, arXiv 2106.09685)."""

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, rank, bias=False)
        self.up = nn.Linear(rank, dim, bias=False)

    def initialise(self) -> None:
        """Set both maps to their start."""
        nn.init.normal_(self.down.weight)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the correction of x."""
        return self.up(self.down(x)) * self.down.out_features**-0.5

    def transposed(self, x: torch.Tensor) -> torch.Tensor:
        """Return the transposed map of x: forward(c) . x = c . transposed(x)."""
        return F.linear(F.linear(x, self.up.weight.T), self.down.weight.T) * self.down.out_features**-0.5


class ContextAwareRanker(Network):
    """Score the candidates of a list in sight of one another.

    ``score = (w * cosine - v * penalties) / spread + linear(encoder(features))``, the penalties being hubness and the
    inverted softmax's normaliser, with w = 1, v = 0 and linear = 0 at the start: an untrained ranker ranks exactly as
    CLIP, and CSLS is one of the things that it can become. The block `bilinear` corrects the cosine to
    (q + Q q) . (c + C c), Q and C of low rank and zero at the start. Without `residual` the linear term stands alone,
    as in the paper.
    """

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        self.config = config
        # The input layer over [image; text] is the sum of two smaller ones, and the query's is needed once a list.
        concat, product = "concat" in config.blocks, "product" in config.blocks
        self.query_input = nn.Linear(config.dim, config.d_model, bias=False) if concat else None
        self.candidate_input = nn.Linear(config.dim, config.d_model, bias=False) if concat else None
        self.product_input = nn.Linear(config.dim, config.d_model, bias=False) if product else None
        scalars = sum(_SCALARS[block] for block in config.blocks if block in _SCALARS)
        self.scalar_input = nn.Linear(scalars, config.d_model, bias=False) if scalars else None
        self.input_bias = nn.Parameter(torch.zeros(config.d_model))
        self.encoder = nn.ModuleList(
            EncoderLayer(config.d_model, config.heads, config.d_ff, config.dropout) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.d_model)
        self.output = nn.Linear(config.d_model, 1)
        self.residual_weight = nn.Parameter(torch.ones(())) if config.residual else None
        self.penalty_weight = nn.Parameter(torch.zeros(2)) if config.residual and "hubness" in config.blocks else None
        bilinear = config.residual and "bilinear" in config.blocks
        self.query_map = LowRank(config.dim, _RANK) if bilinear else None
        self.candidate_map = LowRank(config.dim, _RANK) if bilinear else None
        self.needs = Needs(
            base=config.residual or scalars > 0,
            neighbours="hubness" in config.blocks,
            candidates=product or bilinear,
            lists=True,
        )
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.config.residual:
            nn.init.zeros_(self.output.weight)
        for low_rank in (self.query_map, self.candidate_map):
            if low_rank is not None:
                low_rank.initialise()

    @torch.no_grad()
    def project(self, candidates: torch.Tensor, block: int = 8_192) -> torch.Tensor | None:
        """Return the candidates' part of the input layer, (n, d) -> (n, d_model) float32; None if it has no such part.

        Half precision is taken, too.
        """
        if self.candidate_input is None:
            return None
        return torch.cat([self.candidate_input(part.float()) for part in candidates.split(block)])

    def features(self, batch: ListBatch) -> torch.Tensor:
        """Return the input layer's output, (B, L, d_model)."""
        config = self.config
        x = self.input_bias.expand(*batch.cosine.shape, -1)
        if self.query_input is not None and self.candidate_input is not None:
            known = batch.projected
            x = x + self.query_input(batch.query)[:, None]
            x = x + (self.candidate_input(batch.candidates) if known is None else known)
        if self.product_input is not None:
            # Of two vectors of length 1 the product has length 1 / sqrt(d), and its layer would learn that much slower
            # than the others: the loss then stands still for many epochs before the product is found.
            query = batch.query * config.dim**0.5
            x = x + self.product_input(query[:, None] * batch.candidates)
        if self.scalar_input is not None:
            parts = []
            if "cosine" in config.blocks:
                parts.append(cosine_features(batch.cosine, batch.mask, config.spread))
            if "hubness" in config.blocks:
                parts.append(hubness_features(batch.cosine, batch.neighbour_cosine, batch.mask, config.spread))
            x = x + self.scalar_input(torch.cat(parts, dim=-1))
        return x

    def forward(self, batch: ListBatch) -> torch.Tensor:
        """Return scores (B, L), float32; padding's are meaningless and change no other."""
        x = encoded(self.encoder, self.features(batch), batch.mask)
        scores = self.output(self.norm(x)).squeeze(-1).float()
        if self.residual_weight is not None:
            first = self.residual_weight * batch.cosine
            if self.penalty_weight is not None:
                taken = penalties(batch.neighbour_cosine, batch.mask) * (_FAST * self.penalty_weight)
                first = first - taken.sum(-1)
            if self.query_map is not None and self.candidate_map is not None:
                # (q + Q q) . (c + C c) - q . c = c . (Q q + C^T (q + Q q)): one vector a list, no map of candidates.
                # In float32 under autocast, too: it is divided by the spread.
                with torch.autocast(batch.query.device.type, enabled=False):
                    moved = self.query_map(batch.query)
                    moved = moved + self.candidate_map.transposed(batch.query + moved)
                    first = first + torch.einsum("bld,bd->bl", batch.candidates, moved)
            scores = scores + first / self.config.spread
        return scores
