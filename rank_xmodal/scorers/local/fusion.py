"""Fusion: a caption read with the image before its eyes, and asked whether they match."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from rank_xmodal import losses
from rank_xmodal.lists.bags import Bag
from rank_xmodal.scorers.local.base import Local, LocalSettings
from rank_xmodal.scorers.local.network import LocalNetwork, mean_of
from rank_xmodal.scorers.local.pairing import Grid, OfLists, Pairing


def negatives(similarity: Tensor, match: Tensor) -> Tensor:
    """Draw for each row a column that doesn't match it, (B, B) -> (B,), the similar ones more often.

    The probability is the softmax of the similarities, as ALBEF draws its negatives for matching. Of a row that
    everything matches any column is drawn: `fusion_loss` leaves it out.

    Parameters
    ----------
    similarity : Tensor (B, B)
        Times its sharpness.
    match : Tensor (B, B), bool
    """
    open_to_all = match.all(1, keepdim=True)
    chance = similarity.masked_fill(match & ~open_to_all, -torch.inf).softmax(1)
    return torch.multinomial(chance, 1)[:, 0]


class CrossAttention(nn.Module):
    """A pre-norm block: words look at the cells of the pair's image, then each for itself."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm_words, self.norm_cells, self.norm_forward = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, words: Tensor, cells: Tensor, seen: Tensor, pairing: Pairing) -> Tensor:
        """Return the words of pairs, (B, L, T, k).

        Parameters
        ----------
        words : Tensor (B, L, T, k), or what broadcasts to it
        cells : Tensor (images, P, k)
            Keys and values are made once an image.
        seen : Tensor (images, P), bool
        pairing : Pairing
        """
        rate = self.dropout if self.training else 0.0

        def split(values: Tensor) -> Tensor:
            return values.unflatten(-1, (self.heads, -1)).transpose(-2, -3)

        query = split(self.query(self.norm_words(words)))
        key, value = (pairing.images(split(part)) for part in self.key_value(self.norm_cells(cells)).chunk(2, -1))
        shape = torch.broadcast_shapes(query.shape[:2], key.shape[:2])
        query, key, value = (part.expand(*shape, *part.shape[2:]) for part in (query, key, value))
        mask = pairing.images(seen)[:, :, None, None].expand(*shape, 1, 1, -1)
        # One kernel for all pairs; an image without a cell gives zeros, not NaN.
        empty = ~mask.any(-1, keepdim=True)
        looked = F.scaled_dot_product_attention(query, key, value, attn_mask=mask | empty, dropout_p=rate)
        looked = looked.masked_fill(empty, 0.0).transpose(-2, -3).flatten(-2)
        words = words + F.dropout(self.out(looked), rate)
        return words + F.dropout(self.down(F.gelu(self.up(self.norm_forward(words)))), rate)


class FusionSettings(LocalSettings):
    """How deep the blocks are."""

    blocks: int = Field(2, ge=1, le=100, description="of cross-attention")
    heads: int = Field(4, ge=1, le=1_000, description="of attention in a block")
    lr: float = Field(1e-3, gt=0, le=100, description="largest of the schedule")

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width={self.width} must be a multiple of heads={self.heads}")
        return self


class _Network(LocalNetwork):
    settings: FusionSettings

    def __init__(self, image_width: int, text_width: int, settings: FusionSettings) -> None:
        super().__init__(image_width, text_width, settings)
        rate = min(settings.dropout, 0.1)  # as in a transformer; the tokens themselves are thinned out enough
        self.blocks = nn.ModuleList(
            CrossAttention(settings.width, settings.heads, rate) for _ in range(settings.blocks)
        )
        self.norm = nn.LayerNorm(settings.width)
        self.logit = nn.Linear(settings.width, 1)
        nn.init.zeros_(self.logit.weight)
        nn.init.zeros_(self.logit.bias)

    def encode_image(self, cells: Bag) -> Bag:
        return _with_mean(self.image(cells))

    def encode_text(self, words: Bag) -> Bag:
        return _with_mean(self.text(words))

    def contrast(self, images: Bag, texts: Bag, pairing: Pairing) -> Tensor:
        """Return the cosine of the means, (B, L), times its sharpness."""
        return (pairing.texts(texts.whole) * pairing.images(images.whole)).sum(-1) * self.sharpness.exp()

    def matching(self, images: Bag, texts: Bag, pairing: Pairing) -> Tensor:
        """Return the logit of a match, (B, L)."""
        words, mask = pairing.texts(texts.values), pairing.texts(texts.mask)
        for block in self.blocks:
            words = block(words, images.values, images.mask, pairing)
        found = (words * mask[..., None]).sum(-2) / mask.sum(-1, keepdim=True).clamp(min=1)
        logit: Tensor = self.logit(self.norm(found))[..., 0]
        return logit

    def match(self, images: Bag, texts: Bag, pairing: Pairing) -> Tensor:
        return self.contrast(images, texts, pairing) + self.matching(images, texts, pairing)

    def own_loss(self, images: Bag, texts: Bag, match: Tensor) -> Tensor:
        contrast = self.contrast(images, texts, Grid())
        softmax, labels = losses.get("softmax"), match.to(torch.int8)
        loss = softmax(contrast, labels) + softmax(contrast.T, labels.T)
        own = torch.arange(len(match), device=match.device)
        with torch.no_grad():
            image, caption = negatives(contrast, match), negatives(contrast.T, match.T)
        by_caption = self.matching(images, texts, OfLists("t2i", torch.stack([own, image], 1)))
        by_image = self.matching(images, texts, OfLists("i2t", caption[:, None]))
        logits = torch.cat([by_caption, by_image], 1)
        target = torch.zeros_like(logits)
        target[:, 0] = 1.0
        counted = torch.stack([torch.ones_like(own, dtype=torch.bool), ~match[own, image], ~match[caption, own]], 1)
        binary = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return loss + binary[counted].mean()


def _with_mean(tokens: Bag) -> Bag:
    return Bag(tokens.values, tokens.mask, F.normalize(mean_of(tokens), dim=-1))


class Fusion(Local):
    """``score = s * cosine of the means + logit``: two blocks of cross-attention, and whether image and caption match.

    Trained by the softmax over the batch of the former, and by binary cross-entropy of the latter on each pair, an
    image that doesn't match its caption and a caption that doesn't match its image, drawn by their similarity.

    References
    ----------
    Li et al.: Align before Fuse (ALBEF), NeurIPS 2021, arXiv:2107.07651; Li et al.: BLIP, ICML 2022, arXiv:2201.12086.
    """

    name = "fusion"
    label = "fusion"
    paper = "Li et al.: Align before Fuse: Vision and Language Representation Learning, NeurIPS 2021, arXiv:2107.07651"
    Settings: ClassVar[type[FusionSettings]] = FusionSettings
    settings: FusionSettings
    head = _Network
