"""Late interaction: every word looks for its cell."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from rank_xmodal.lists.bags import Bag
from rank_xmodal.scorers.local.base import Local, LocalSettings
from rank_xmodal.scorers.local.network import LocalNetwork, masked_mean, masked_softmax
from rank_xmodal.scorers.local.pairing import Pairing

Pooling = Literal["max", "soft", "lse", "mean"]
Way = Literal["words", "cells", "both"]


def pooled(products: Tensor, mask: Tensor, pooling: Pooling, sharpness: float | Tensor) -> Tensor:
    """Return what each token finds among those of the other side, (..., T, P) -> (..., T).

    Parameters
    ----------
    products : Tensor (..., T, P)
    mask : Tensor, bool, broadcasts to the products
        Where there is a token of the other side.
    pooling : "max", "soft", "lse" or "mean"
        The largest; the mean weighted by the softmax of s x; ``log(mean(exp(s x))) / s``; or the mean. The second and
        third lie between mean and maximum.
    sharpness : float
        s, above 0.
    """
    if pooling == "max":
        return products.masked_fill(~mask, -torch.inf).amax(-1)
    count = mask.sum(-1).clamp(min=1)
    if pooling == "mean":
        return (products * mask).sum(-1) / count
    if pooling == "soft":
        return (masked_softmax(products * sharpness, mask) * products).sum(-1)
    return (torch.logsumexp((products * sharpness).masked_fill(~mask, -torch.inf), -1) - count.log()) / sharpness


def late_interaction(
    products: Tensor, words: Tensor, cells: Tensor, *, pooling: Pooling = "max", way: Way = "words",
    sharpness: float | Tensor = 10.0,
) -> Tensor:  # fmt: skip
    """Return ``mean_t pool_p x_tp``, the mean over the words of what each finds among the cells, (...,).

    ColBERT sums where this takes the mean; of one caption the order is the same, and captions of different length can
    be compared.

    Parameters
    ----------
    products : Tensor (..., T, P)
        Of words and cells.
    words, cells : Tensor (..., T) and (..., P), bool
        Where there are any; broadcast.
    pooling, sharpness
        See `pooled`.
    way : "words", "cells" or "both"
        Who looks: words for cells, cells for words, or the mean of both.
    """
    found = []
    if way != "cells":
        best = pooled(products, cells[..., None, :], pooling, sharpness)
        found.append(masked_mean(best, words))
    if way != "words":
        best = pooled(products.transpose(-1, -2), words[..., None, :], pooling, sharpness)
        found.append(masked_mean(best, cells))
    return sum(found[1:], found[0]) / len(found)


class LateInteractionSettings(LocalSettings):
    """Who looks for whom, and what counts of what is found."""

    pooling: Pooling = Field("soft", description="of what a token finds: its best, a softened best, or the mean")
    way: Way = Field("words", description="who looks: words for cells, cells for words, or both")
    softness: float = Field(0.1, gt=0, le=10, description="soft, lse: temperature at the start; learnt")


class _Network(LocalNetwork):
    def __init__(self, image_width: int, text_width: int, settings: LateInteractionSettings) -> None:
        super().__init__(image_width, text_width, settings)
        self.logsharp = torch.nn.Parameter(torch.tensor(-math.log(settings.softness)))

    def match(self, images: Bag, texts: Bag, pairing: Pairing) -> Tensor:
        products = pairing.products(texts.values, images.values)
        return late_interaction(
            products, pairing.texts(texts.mask), pairing.images(images.mask), pooling=self.settings.pooling,
            way=self.settings.way, sharpness=self.logsharp.exp(),
        )  # fmt: skip


class LateInteraction(Local):
    """``score = mean over the words of the best cell's cosine``, of words and cells mapped to one width.

    References
    ----------
    Karpathy and Fei-Fei: Deep Visual-Semantic Alignments (DVSA), CVPR 2015, arXiv:1412.2306. Khattab and Zaharia:
    ColBERT, SIGIR 2020, arXiv:2004.12832. Log-sum-exp: Lee et al., ECCV 2018, arXiv:1803.08024. Words and cells both
    looking: Yao et al.: FILIP, ICLR 2022, arXiv:2111.07783.
    """

    name = "late_interaction"
    label = "late interaction"
    paper = (
        "Khattab and Zaharia: ColBERT: Efficient and Effective Passage Search via Contextualized Late Interaction, "
        "SIGIR 2020, arXiv:2004.12832"
    )
    Settings: ClassVar[type[LateInteractionSettings]] = LateInteractionSettings
    settings: LateInteractionSettings
    head = _Network
