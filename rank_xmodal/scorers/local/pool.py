"""Pooling: each side's tokens become one vector, and it is learnt how much the largest count and the smallest."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rank_xmodal.lists.bags import Bag
from rank_xmodal.scorers.local.base import Local, LocalSettings
from rank_xmodal.scorers.local.network import LocalNetwork, masked_softmax
from rank_xmodal.scorers.local.pairing import Pairing

Pooling = Literal["gpo", "mean", "max", "kmax"]

_STATE = 32  # of a position's encoding and of the GRU; the paper's
_TEMPERATURE = 0.1  # of the softmax over the positions; the paper's


def sinusoids(length: int, width: int) -> Tensor:
    """Return encodings of the positions 0, 1, ..., (length, width) float32: sines and cosines of falling frequency.

    Entry 2i of position p is ``sin(p / 10000^(2i / width))``, entry 2i + 1 the cosine; `width` is even. From Vaswani et
    al.: Attention Is All You Need, NeurIPS 2017, arXiv:1706.03762.
    """
    slower = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angle = torch.arange(length)[:, None] * slower
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


def largest(count: Tensor, length: int, k: int | None) -> Tensor:
    """Return the position weights of the mean of the k largest, (n, length) float32.

    Parameters
    ----------
    count : Tensor (n,), int64
        Tokens of each item.
    length : int
        The most there can be.
    k : int or None
        1 is max pooling; None, all of them, is mean pooling.
    """
    used = count if k is None else count.clamp(max=k)
    place = torch.arange(length, device=count.device)
    return (place < used[:, None]) / used.clamp(min=1)[:, None]


def pooled_by_rank(values: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """Return ``v_j = sum_p w_p x_(p)j``, x_(1)j >= x_(2)j >= ... the tokens' values in dimension j, (n, d).

    Generalized pooling of Chen et al., CVPR 2021, arXiv:2011.04305, section 3: each dimension is sorted on its own.

    Parameters
    ----------
    values : Tensor (n, T, d)
    mask : Tensor (n, T), bool
        False at padding, wherever that is.
    weights : Tensor (n, T)
        Of the largest value, the second, ...; what lies behind an item's number of tokens does not count.
    """
    place = torch.arange(mask.shape[1], device=mask.device)
    there = place < mask.sum(1, keepdim=True)
    ordered = values.masked_fill(~mask[..., None], -torch.inf).sort(1, descending=True).values
    return (ordered.masked_fill(~there[..., None], 0.0) * weights[..., None].to(values)).sum(1)


def self_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Return ``softmax(q k^T / sqrt(d)) v`` among each item's own tokens, (n, T, d); 0 for an item without any.

    Parameters
    ----------
    query, key, value : Tensor (n, T, d)
    mask : Tensor (n, T), bool
        Which tokens are looked at.
    """
    logits = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
    return masked_softmax(logits, mask[:, None]) @ value


class PositionWeights(nn.Module):
    """Position weights from a GRU over encodings of the positions, as many as an item has tokens.

    ``w = softmax(u^T h / 0.1)`` with h the mean of both directions' states. The vector u starts at 0, so all weights of
    an item start equal: the pooling begins as the mean.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(_STATE, _STATE, batch_first=True, bidirectional=True)
        self.score = nn.Linear(_STATE, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, count: Tensor, length: int) -> Tensor:
        """Return the weights of items with so many tokens, (n,) int64 -> (n, length); they sum to 1."""
        # They depend on the number alone: every number once.
        counts, place = torch.unique(count.clamp(min=1), return_inverse=True)
        at = sinusoids(int(counts[-1]), _STATE).to(self.score.weight).expand(len(counts), -1, -1)
        packed = pack_padded_sequence(at, counts.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=max(1, length))
        logits = self.score(states.unflatten(-1, (2, _STATE)).mean(-2))[..., 0] / _TEMPERATURE
        there = torch.arange(states.shape[1], device=count.device) < counts[:, None]
        return masked_softmax(logits, there)[place, :length]


class Attention(nn.Module):
    """One block of self-attention: ``x + W attention(norm(x))``.

    It has the role of VSRN's reasoning: tokens tell each other what they are part of. W starts at 0, so the block
    starts as the identity.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.look = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, tokens: Bag) -> Bag:
        """Return the tokens, (n, T, k), with what they learnt of each other."""
        even = F.layer_norm(tokens.values, tokens.values.shape[-1:])  # however long the maps have made them
        query, key, value = self.look(even).chunk(3, -1)
        found = self.out(self_attention(query, key, value, tokens.mask))
        return Bag.of(tokens.values + found, tokens.mask, tokens.whole)


class PoolSettings(LocalSettings):
    """What counts of the tokens' sorted values."""

    pooling: Pooling = Field("gpo", description="learnt position weights, or the mean, the largest, the k largest")
    k: int = Field(5, ge=1, description="kmax: how many of the largest values are averaged")
    attention: bool = Field(False, description="tokens look at each other first")


class Pooled(nn.Module):
    """One side's mapped tokens as a vector of length 1.

    Parameters
    ----------
    settings : PoolSettings
    """

    def __init__(self, settings: PoolSettings) -> None:
        super().__init__()
        self.k = {"mean": None, "max": 1}.get(settings.pooling, settings.k)
        self.attention = Attention(settings.width) if settings.attention else None
        self.weights = PositionWeights() if settings.pooling == "gpo" else None

    def forward(self, tokens: Bag) -> Bag:
        """Return items without tokens whose `whole` is their vector, (n, k)."""
        if self.attention is not None:
            tokens = self.attention(tokens)
        count, length = tokens.mask.sum(1), tokens.mask.shape[1]
        weights = largest(count, length, self.k) if self.weights is None else self.weights(count, length)
        vector = F.normalize(pooled_by_rank(tokens.values, tokens.mask, weights), dim=-1)
        return Bag(tokens.values[:, :0], tokens.mask[:, :0], vector)


class _Network(LocalNetwork):
    def __init__(self, image_width: int, text_width: int, settings: PoolSettings) -> None:
        super().__init__(image_width, text_width, settings)
        self.of_image, self.of_text = Pooled(settings), Pooled(settings)

    def encode_image(self, cells: Bag) -> Bag:
        found: Bag = self.of_image(self.image(cells))
        return found

    def encode_text(self, words: Bag) -> Bag:
        found: Bag = self.of_text(self.text(words))
        return found

    def match(self, images: Bag, texts: Bag, pairing: Pairing) -> Tensor:
        return pairing.products(texts.whole[:, None], images.whole[:, None])[..., 0, 0]


class Pool(Local):
    """``score = cosine(pool(words), pool(cells))``, each dimension sorted and weighted by rank.

    References
    ----------
    Chen et al.: Learning the Best Pooling Strategy for Visual Semantic Embedding (VSE-infinity), CVPR 2021,
    arXiv:2011.04305. Self-attention in the role of the reasoning of Li et al.: Visual Semantic Reasoning for Image-Text
    Matching (VSRN), ICCV 2019, arXiv:1909.02701.
    """

    name = "pool"
    label = "pooling"
    paper = "Chen et al.: Learning the Best Pooling Strategy for Visual Semantic Embedding, CVPR 2021, arXiv:2011.04305"
    Settings: ClassVar[type[PoolSettings]] = PoolSettings
    settings: PoolSettings
    head = _Network
