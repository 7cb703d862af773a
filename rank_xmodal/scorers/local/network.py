"""What the local heads share: both sides' tokens, brought to one width."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rank_xmodal.lists.bags import Bag
from rank_xmodal.scorers.local.pairing import Pairing

_SHARPNESS = 20.0  # of the similarities at the start of a training; learnt


class Side(nn.Module):
    """Tokens of one side, standardised, mapped to the common width and turned there, (n, T, d) -> (n, T, k).

    The map is learnt in the warm-up and then stays, so that the tokens of a training are mapped once; the turn, a
    square map that starts as the identity, is the head's to learn.

    Parameters
    ----------
    width : int
        d, of a token.
    settings : LocalSettings

    Attributes
    ----------
    premapped : bool
        Whether the tokens that come are mapped already.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, settings: Any) -> None:
        super().__init__()
        self.settings, self.premapped = settings, False
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.map = nn.Linear(width, settings.width)
        self.turn = nn.Linear(settings.width, settings.width)
        nn.init.eye_(self.turn.weight)
        nn.init.zeros_(self.turn.bias)

    def standardise(self, mean: Tensor, deviation: Tensor) -> None:
        """Take over what tokens are centred and divided by, (d,) each."""
        self.mean.copy_(mean)
        self.scale.copy_(1 / deviation.clamp(min=1e-4))

    def mapped(self, values: Tensor) -> Tensor:
        """Map tokens, or means of them, (..., d) -> (..., k)."""
        found: Tensor = self.map(F.dropout((values - self.mean) * self.scale, self.settings.dropout, self.training))
        return found

    def thinned(self, tokens: Bag) -> Bag:
        """Leave out some of each item's tokens in training, all but one at most."""
        mask, share = tokens.mask, self.settings.without
        if self.training and share:
            drawn = torch.rand(mask.shape, device=mask.device).masked_fill(~mask, -1.0)
            mask = mask & ((drawn > share) | (drawn == drawn.amax(1, keepdim=True)))
        return Bag.of(tokens.values, mask)

    def forward(self, tokens: Bag) -> Bag:
        """Map and turn the tokens of items."""
        tokens = self.thinned(tokens)
        values = tokens.values if self.premapped else self.mapped(tokens.values)
        return Bag.of(self.turn(F.dropout(values, self.settings.head_dropout, self.training)), tokens.mask)


def mean_of(tokens: Bag) -> Tensor:
    """Return the mean of each item's tokens, (n, d)."""
    return tokens.values.sum(1) / tokens.mask.sum(1, keepdim=True).clamp(min=1)


class LocalNetwork(nn.Module):
    """A head: a similarity of an image's cells with a caption's words.

    A subclass says how a pair is matched (`match`), and what is made of an item first (`encode_image`, `encode_text`),
    once for all the pairs that it stands in.

    Parameters
    ----------
    image_width, text_width : int
        Of a cell and of a word.
    settings : LocalSettings
    """

    def __init__(self, image_width: int, text_width: int, settings: Any) -> None:
        super().__init__()
        self.settings = settings
        self.image, self.text = Side(image_width, settings), Side(text_width, settings)
        self.sharpness = nn.Parameter(torch.tensor(math.log(_SHARPNESS)))

    def encode_image(self, cells: Bag) -> Bag:
        """Return an image's cells, of the settings' width and length 1, (n, P, k)."""
        return unit(self.image(cells))

    def encode_text(self, words: Bag) -> Bag:
        """Return a caption's words, of the settings' width and length 1, (n, T, k)."""
        return unit(self.text(words))

    @abstractmethod
    def match(self, images: Bag, texts: Bag, pairing: Pairing) -> Tensor:
        """Return the similarity of pairs, (B, L) float32, from what `encode_image` and `encode_text` made."""

    def penalty(self) -> Tensor | None:
        """Return what the last step adds to its loss, a scalar, or None."""
        return None

    def own_loss(self, images: Bag, texts: Bag, match: Tensor) -> Tensor | None:
        """Return the loss of a batch where a head has one of its own in place of the settings' objective, or None.

        Parameters
        ----------
        images, texts : Bag of B
            As `encode_image` and `encode_text` made them.
        match : Tensor (B, B), bool
            Which caption (row) belongs to which image; pair i stands on the diagonal.
        """
        return None


def unit(tokens: Bag) -> Bag:
    """Bring tokens to length 1."""
    return Bag(F.normalize(tokens.values, dim=-1), tokens.mask, tokens.whole)
