"""SCAN: every word attends to the cells, or every cell to the words, and is compared with what it found."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from rank_xmodal.lists.bags import Bag
from rank_xmodal.scorers.local.base import Local, LocalSettings
from rank_xmodal.scorers.local.late_interaction import Way
from rank_xmodal.scorers.local.network import LocalNetwork, masked_mean, unit
from rank_xmodal.scorers.local.pairing import OfLists, Pairing

_SHORT = 1e-3  # shorter vectors are not brought to length 1: what is left of them are rounding errors
_IN_CACHE, _ON_DEVICE = 1 << 18, 1 << 26  # numbers in a tensor of pairs where no gradient is wanted


def attention(products: Tensor, sharpness: float) -> Tensor:
    """Return how strongly tokens look at those of the other side, (..., T, P), all above 0.

    ``exp(s * x / ||x||)``, x the positive parts of the products, and the length taken over the T that look: who is
    close to all of them gets less of each. A softmax over P is the same but for a factor of each row, which the
    direction of a context doesn't depend on; and a constant, by which their squares stay in range.

    Parameters
    ----------
    products : Tensor (..., T, P)
        Cosines, 0 at padding. Padding gets a weight, too: what is summed with it has to be 0 there.
    sharpness : float
        s, at most 50; the paper's lambda 1.
    """
    positive = products.relu()
    scale = sharpness * positive.square().sum(-2, keepdim=True).clamp(min=1e-12).rsqrt()
    return torch.addcmul(products.new_tensor(-sharpness / 2), positive, scale).exp()


def contexts(weights: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """Return what tokens found, the weighted mean of what they look at, (B, L, T, k).

    Parameters
    ----------
    weights : Tensor (B, L, T, P)
        See `attention`.
    tokens, mask : Tensor (B or 1, L or 1, P, k) and (B or 1, L or 1, P), bool
        What is looked at, and where there is any.
    """
    kept = weights * mask[..., None, :]
    return for_pairs(kept / kept.sum(-1, keepdim=True), tokens)


def context_cosine(products: Tensor, others: Tensor, sharpness: float, *, grams: bool = True) -> Tensor:
    """Return the cosine of each token with what it found, (B, L, T).

    No context is built: with weights a, its product with the token is ``sum_p x_p a_p``, and its squared length is
    ``a' K a``, K the products of what is looked at with itself. K belongs to an item, not to a pair.

    Parameters
    ----------
    products : Tensor (B, L, T, P)
        Cosines of tokens of length 1; 0 at padding.
    others : Tensor (B or 1, L or 1, P, P), or (B or 1, L or 1, P, k) without `grams`
        K; or the tokens themselves, for contexts that are built, which is less work where P is above k. 0 at padding.
    sharpness : float
        See `attention`.
    """
    return cosine_with(products, attention(products, sharpness), others, _least(sharpness), grams=grams)


def cosine_with(products: Tensor, weights: Tensor, others: Tensor, least: float, *, grams: bool = True) -> Tensor:
    """Return the cosine of each token with the weighted sum of the others, (B, L, T); see `context_cosine`.

    Parameters
    ----------
    products, weights : Tensor (B, L, T, P)
        The weights are 0, or the others are, where there is no other.
    others : Tensor
        As `context_cosine` takes them.
    least : float
        A shorter sum counts as this long, so that the gradient stays finite.
    grams : bool
    """
    found = _like(weights, others) if grams else for_pairs(weights, others)
    squared = (found * weights).sum(-1) if grams else found.square().sum(-1)
    return ((products * weights).sum(-1) * squared.clamp(min=least**2).rsqrt()).clamp(-1, 1)


def _least(sharpness: float) -> float:
    """Return the length below which a context of `attention` is made of rounding errors: parts that cancel out."""
    return _SHORT * math.exp(-sharpness / 2)  # no weight is smaller than the second factor


def for_pairs(weights: Tensor, tokens: Tensor) -> Tensor:
    """Return weighted sums, (B, L, T, P) and (B or 1, L or 1, P, k) -> (B, L, T, k).

    Pairs that share an item share a product of matrices: a broadcast one would copy the tokens for each pair.
    """
    if tokens.shape[0] == 1:
        together = weights.transpose(0, 1).flatten(1, 2) @ tokens[0]
        return together.unflatten(1, (weights.shape[0], weights.shape[2])).transpose(0, 1)
    if tokens.shape[1] == 1:
        return (weights.flatten(1, 2) @ tokens[:, 0]).unflatten(1, weights.shape[1:3])
    return weights @ tokens


def _like(weights: Tensor, grams: Tensor) -> Tensor:
    """Return `for_pairs` of symmetric matrices, laid out in memory as the weights are."""
    if weights.stride(-1) == 1:
        return for_pairs(weights, grams)
    turned = weights.transpose(2, 3)
    if grams.shape[1] == 1:
        together = grams[:, 0] @ turned.transpose(1, 2).flatten(2, 3)
        return together.unflatten(2, (turned.shape[1], turned.shape[3])).transpose(1, 2).transpose(2, 3)
    return (grams @ turned).transpose(2, 3)


def unit_or_shorter(values: Tensor) -> Tensor:
    """Bring vectors to length 1, or nearly 0 ones to less: their gradient is finite."""
    return values * values.square().sum(-1, keepdim=True).clamp(min=_SHORT**2).rsqrt()


def by_lists(
    match: Callable[[Bag, Bag, Pairing], Tensor], images: Bag, texts: Bag, pairing: Pairing, numbers: int
) -> Tensor:
    """Return ``match(images, texts, pairing)``; some lists at a time where no gradient is wanted.

    What it computes then stays in a processor's cache, and more lists take no more memory.

    Parameters
    ----------
    match : callable
        See `LocalNetwork.match`.
    numbers : int
        In the largest tensor that it makes of a pair.
    """
    if torch.is_grad_enabled():
        return match(images, texts, pairing)
    lists = pairing if isinstance(pairing, OfLists) else None
    by_texts = lists is None or lists.asked_by_texts
    asking, length = texts if by_texts else images, len(images) if lists is None else lists.place.shape[1]
    device, found = asking.mask.device, []
    most = _IN_CACHE if device.type == "cpu" else _ON_DEVICE
    for rows in torch.arange(len(asking), device=device).split(max(1, most // max(1, length * numbers))):
        part = asking.take(rows)
        some = pairing if lists is None else OfLists("t2i" if by_texts else "i2t", lists.place[rows])
        found.append(match(images, part, some) if by_texts else match(part, texts, some))
    return torch.cat(found)


class ScanSettings(LocalSettings):
    """Who looks for whom, how sharply, and what counts of what is found."""

    way: Way = Field("both", description="who looks: words for cells, cells for words, or both")
    pooling: Literal["lse", "mean"] = Field("mean", description="of the cosines with what is found")
    word_sharpness: float = Field(9.0, gt=0, le=50, description="of a word's attention; lambda 1 of the paper")
    cell_sharpness: float = Field(4.0, gt=0, le=50, description="of a cell's attention; lambda 1 of the paper")
    word_lse: float = Field(6.0, gt=0, le=1_000, description="lse: how far the best word decides; lambda 2")
    cell_lse: float = Field(
        5.0, gt=0, le=1_000, description="lse: how far the best cell decides; lambda 2; for COCO 20"
    )
    hops: int = Field(1, ge=1, le=10, description="times that tokens look; a gate refines them in between (IMRAM)")


class _Gate(nn.Module):
    """IMRAM's memory: a token x takes in some of what it found, c.

    ``g x + (1 - g) o`` with ``g = sigmoid(W [x, c] + w)`` and ``o = tanh(V [x, c] + v)``; W and V are halved, so that
    the half for x is computed once for all pairs of an item that has not looked yet.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own, self.found = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width, bias=False)

    def forward(self, tokens: Tensor, found: Tensor) -> Tensor:
        """Return refined tokens of length 1, (B or 1, L or 1, T, k) and (B, L, T, k) -> (B, L, T, k)."""
        gate, new = (self.own(tokens) + self.found(found)).chunk(2, -1)
        return unit_or_shorter(torch.lerp(new.tanh(), tokens, gate.sigmoid()))


class _Look(nn.Module):
    """One side looks at the other.

    Parameters
    ----------
    width, hops : int
    sharpness : float
    lse : float or None
        lambda 2; None for the mean.
    """

    def __init__(self, width: int, hops: int, sharpness: float, lse: float | None) -> None:
        super().__init__()
        self.hops, self.sharpness, self.lse = hops, sharpness, lse
        self.gate = _Gate(width) if hops > 1 else None

    def _pooled(self, cosines: Tensor, mask: Tensor) -> Tensor:
        if self.lse is None:
            return masked_mean(cosines, mask)
        return (cosines * self.lse).masked_fill(~mask, -torch.inf).logsumexp(-1) / self.lse

    def forward(
        self, products: Tensor, own: Bag, others: Bag, of_own: Callable[[Tensor], Tensor],
        of_others: Callable[[Tensor], Tensor],
    ) -> Tensor:  # fmt: skip
        """Return similarities, (B, L).

        Parameters
        ----------
        products : Tensor (B, L, T, P)
        own, others : Bag
            Who looks, and what is looked at, with its Gram matrices as the whole or nothing.
        of_own, of_others : callable
            Which of their items a pair has; see `Pairing`.
        """
        grams = others.whole.shape[1] > 0
        seen = of_others(others.whole.unflatten(1, (others.values.shape[1],) * 2) if grams else others.values)
        mask = of_own(own.mask)
        if self.gate is None:
            return self._pooled(context_cosine(products, seen, self.sharpness, grams=grams), mask)
        return self._several(
            self.gate, grams, products, mask, seen, of_own(own.values), of_others(others.values), of_others(others.mask)
        )

    def _several(
        self, gate: _Gate, grams: bool, products: Tensor, mask: Tensor, seen: Tensor, tokens: Tensor, values: Tensor,
        there: Tensor,
    ) -> Tensor:  # fmt: skip
        weights, least = attention(products, self.sharpness), _least(self.sharpness)
        total = self._pooled(cosine_with(products, weights, seen, least, grams=grams), mask)
        for _ in range(self.hops - 1):
            tokens = gate(tokens, contexts(weights, values, there)) * mask[..., None]
            products = for_pairs(tokens, values.transpose(2, 3))
            weights = attention(products, self.sharpness)
            total = total + self._pooled(
                cosine_with(products, weights, seen, _least(self.sharpness), grams=grams), mask
            )
        return total / self.hops


def _with_grams(tokens: Bag) -> Bag:
    """Return tokens with their Gram matrix as the whole, (n, P * P)."""
    return Bag(tokens.values, tokens.mask, (tokens.values @ tokens.values.transpose(1, 2)).flatten(1))


class _Network(LocalNetwork):
    def __init__(self, image_width: int, text_width: int, settings: ScanSettings) -> None:
        super().__init__(image_width, text_width, settings)
        s, lse = settings, settings.pooling == "lse"
        self.words = _Look(s.width, s.hops, s.word_sharpness, s.word_lse if lse else None) if s.way != "cells" else None
        self.cells = _Look(s.width, s.hops, s.cell_sharpness, s.cell_lse if lse else None) if s.way != "words" else None

    def encode_image(self, cells: Bag) -> Bag:
        """Return an image's cells, of length 1, and their Gram matrix where words look at them.

        More cells than they are wide have none: it would be larger than they are.
        """
        found = unit(self.image(cells))
        known = self.words is not None and found.values.shape[1] <= found.values.shape[2]
        return _with_grams(found) if known else found

    def match(self, images: Bag, texts: Bag, pairing: Pairing) -> Tensor:
        t, p = texts.values.shape[1], images.values.shape[1]
        numbers = t * p if self.settings.hops == 1 else max(t, p) * max(t, p, 2 * self.settings.width)
        return by_lists(self._match, images, texts if self.cells is None else _with_grams(texts), pairing, numbers)

    def _match(self, images: Bag, texts: Bag, pairing: Pairing) -> Tensor:
        products, found = pairing.products(texts.values, images.values), []
        if self.words is not None:
            found.append(self.words(products, texts, images, pairing.texts, pairing.images))
        if self.cells is not None:
            found.append(self.cells(products.transpose(2, 3), images, texts, pairing.images, pairing.texts))
        return sum(found[1:], found[0]) / len(found)


class Scan(Local):
    """``score = mean over the words of the cosine with the cells that each attends to``, and the same of the cells.

    With ``pooling=lse`` it is ``log(sum(exp(l * cosine))) / l`` in place of the mean. ``way=words`` is the paper's
    text-image formulation, ``way=cells`` its image-text one, and ``way=both`` the mean of both. With more than one hop
    it is IMRAM: between two hops a gate refines the tokens that look. The hops' similarities are averaged where that
    paper sums them, and refined tokens are brought to length 1.

    References
    ----------
    Lee et al.: Stacked Cross Attention for Image-Text Matching, ECCV 2018, arXiv:1803.08024. Chen et al.: IMRAM:
    Iterative Matching with Recurrent Attention Memory for Cross-Modal Image-Text Retrieval, CVPR 2020,
    arXiv:2003.03772.
    """

    name = "scan"
    label = "SCAN"
    paper = "Lee et al.: Stacked Cross Attention for Image-Text Matching, ECCV 2018, arXiv:1803.08024"
    Settings: ClassVar[type[ScanSettings]] = ScanSettings
    settings: ScanSettings
    head = _Network
