"""Three levels at once: views of the image, words and cells that look at each other, and both as a whole."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from rank_xmodal.lists.bags import Bag
from rank_xmodal.scorers.local.base import Local
from rank_xmodal.scorers.local.late_interaction import late_interaction
from rank_xmodal.scorers.local.network import LocalNetwork, masked_mean, masked_softmax, mean_of, unit
from rank_xmodal.scorers.local.pairing import Pairing
from rank_xmodal.scorers.local.scan import cosine_with
from rank_xmodal.scorers.local.views import MultiView, ViewsSettings, best_view

Level = Literal["views", "tokens", "whole"]

_START = {"views": 1.0, "tokens": 0.6, "whole": 0.2}
_SHARPNESS = 10.0  # of the attention at the start; learnt
_SHORTEST = 1e-4  # of an attended vector; shorter ones count as this long, so that the gradient stays finite


def attended(products: Tensor, gram: Tensor, mask: Tensor, sharpness: float | Tensor) -> Tensor:
    """Return each token's cosine with what it attends to on the other side, (B, L, T, P) -> (B, L, T).

    Token t looks at ``c_t = sum_p a_tp y_p`` with ``a_tp = softmax_p(s x_t y_p)``. Its cosine with that needs no c_t:
    ``x_t c_t = sum_p a_tp x_t y_p`` and ``|c_t|^2 = a_t^T Y Y^T a_t``.

    Parameters
    ----------
    products : Tensor (B, L, T, P)
        x_t y_p, all of length 1.
    gram : Tensor (B, L, P, P), broadcasts
        Y Y^T, the other side's products with themselves.
    mask : Tensor (B, L, P), bool, broadcasts
        Where there is a token of the other side; without any the cosine is 0.
    sharpness : float
        s.
    """
    weights = masked_softmax(products * sharpness, mask[..., None, :])
    return cosine_with(products, weights, gram, _SHORTEST)


def interaction(
    products: Tensor, word_gram: Tensor, cell_gram: Tensor, words: Tensor, cells: Tensor, sharpness: float | Tensor
) -> Tensor:
    """Return the mean of `attended` over the words, which look at cells, and over the cells, which look at words.

    Parameters
    ----------
    products : Tensor (B, L, T, P)
        Of words and cells.
    word_gram, cell_gram : Tensor (B, L, T, T) and (B, L, P, P), broadcast
    words, cells : Tensor (B, L, T) and (B, L, P), bool, broadcast
        Where there are any.
    sharpness : float
        Of the attention both ways.

    Returns
    -------
    Tensor (B, L)
    """
    by_word = attended(products, cell_gram, cells, sharpness)
    by_cell = attended(products.transpose(-1, -2), word_gram, words, sharpness)
    return (masked_mean(by_word, words) + masked_mean(by_cell, cells)) / 2


class MganSettings(ViewsSettings):
    """Which levels there are, and what the middle one is."""

    levels: tuple[Level, ...] = Field(("views", "tokens", "whole"), min_length=1, description="what is compared")
    interaction: bool = Field(True, description="tokens attend to each other; else each looks for its best")

    @field_validator("levels")
    @classmethod
    def _each_once(cls, value: tuple[Level, ...]) -> tuple[Level, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a level is there twice")
        return value


class _Network(LocalNetwork):
    def __init__(self, image_width: int, text_width: int, settings: MganSettings) -> None:
        super().__init__(image_width, text_width, settings)
        self.views = MultiView(settings) if "views" in settings.levels else None
        self.logweights = torch.nn.Parameter(torch.tensor([_START[level] for level in settings.levels]).log())
        self.logsharp = torch.nn.Parameter(torch.tensor(math.log(_SHARPNESS)))

    def _kept(self, mapped: Bag, vectors: Tensor | None) -> Bag:
        """Return tokens of length 1, and as a whole the mean and the vectors (n, v, k), one behind the other."""
        mean = F.normalize(mean_of(mapped), dim=-1)
        whole = mean if vectors is None else torch.cat([mean, vectors.flatten(1)], 1)
        kept = mapped if "tokens" in self.settings.levels else Bag(mapped.values[:, :0], mapped.mask[:, :0], whole)
        return unit(Bag(kept.values, kept.mask, whole))

    def encode_image(self, cells: Bag) -> Bag:
        mapped = self.image(cells)
        return self._kept(mapped, None if self.views is None else self.views.seen(mapped))

    def encode_text(self, words: Bag) -> Bag:
        mapped = self.text(words)
        return self._kept(mapped, None if self.views is None else self.views.read(mapped))

    def _tokens(self, images: Bag, texts: Bag, pairing: Pairing) -> Tensor:
        products = pairing.products(texts.values, images.values)
        words, cells = pairing.texts(texts.mask), pairing.images(images.mask)
        if self.settings.interaction:
            grams = (bag.values @ bag.values.transpose(1, 2) for bag in (texts, images))
            word_gram, cell_gram = pairing.texts(next(grams)), pairing.images(next(grams))
            return interaction(products, word_gram, cell_gram, words, cells, self.logsharp.exp())
        # The places of an item without tokens hold zeros; let in, they say 0 where a maximum over nothing is -inf.
        words, cells = (mask | ~mask.any(-1, keepdim=True) for mask in (words, cells))
        return late_interaction(products, words, cells, way="both")

    def match(self, images: Bag, texts: Bag, pairing: Pairing) -> Tensor:
        seen, read = (bag.whole.unflatten(1, (-1, self.settings.width)) for bag in (images, texts))
        total: Tensor | float = 0.0
        for level, weight in zip(self.settings.levels, self.logweights.softmax(0), strict=True):
            if level == "views":
                found = best_view(seen[:, 1:], read[:, 1:], pairing)
            elif level == "tokens":
                found = self._tokens(images, texts, pairing)
            else:
                found = pairing.products(read[:, :1], seen[:, :1])[..., 0, 0]
            total = total + weight * found
        assert isinstance(total, Tensor)
        return total

    def penalty(self) -> Tensor | None:
        return None if self.views is None else self.views.penalty()


class Mgan(Local):
    """``score = weighted mean of three similarities``: of the best view, of the tokens, and of the wholes.

    In the manner of multi-granularity alignment networks:

    - views: the caption's cosine with the image's best view, as in `Views`;
    - tokens: each word's cosine with the cells that it attends to, and each cell's with its words, see `interaction`;
      without the interaction, each token's cosine with its best, both ways;
    - whole: the cosine of the mean vectors.

    The weights start as 1 to 0.6 to 0.2, and are learnt as a softmax of their logarithms: only what they are to each
    other counts, and the score stays between -1 and 1, as a margin needs it.
    """

    name = "mgan"
    label = "multi-granularity"
    paper = (
        "three levels in the manner of multi-granularity alignment networks; the views of Qu et al., ACM MM 2020, "
        "https://doi.org/10.1145/3394171.3413961"
    )
    Settings: ClassVar[type[MganSettings]] = MganSettings
    settings: MganSettings
    head = _Network
