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
_DIRECTIONS = 256  # of tokens that are kept at most
_SHRINKAGE = 0.3


class Side(nn.Module):
    """Tokens of one side, whitened, cut to their principal directions and mapped, (n, T, d) -> (n, T, k).

    What can be whitened without a pair is, once and for all tokens; a head that has to learn it from few pairs learns
    the pairs by heart. The map is the head's to learn.

    Parameters
    ----------
    width : int
        d, of a token.
    settings : LocalSettings

    Attributes
    ----------
    reduced : bool
        Whether the tokens that come are whitened already.
    """

    mean: Tensor
    white: Tensor

    def __init__(self, width: int, settings: Any) -> None:
        super().__init__()
        kept = min(width, _DIRECTIONS)
        self.settings, self.reduced = settings, False
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("white", torch.eye(width, kept))
        self.map = nn.Linear(kept, settings.width)

    def whiten_as(self, sample: Tensor) -> None:
        """Take over how tokens are whitened from a sample of them, (m, d).

        Along each of the principal directions they are divided by their deviation, the small ones held up by a share of
        the mean variance; a token's length becomes about 1.
        """
        mean = sample.mean(0)
        moved = sample - mean
        variance, directions = torch.linalg.eigh(moved.T @ moved / len(sample))
        kept = self.white.shape[1]
        variance, directions = variance.flip(0)[:kept].clamp(min=0), directions.flip(1)[:, :kept]
        raised = variance + _SHRINKAGE * variance.mean().clamp(min=1e-12)
        self.mean.copy_(mean)
        self.white.copy_(directions * raised.rsqrt() * kept**-0.5)

    def whitened(self, values: Tensor) -> Tensor:
        """Whiten tokens, (..., d) -> (..., r)."""
        return (values - self.mean) @ self.white

    def forward(self, tokens: Bag) -> Bag:
        """Map the tokens of items; training leaves out some of an item's tokens, and some entries of the others."""
        mask, share = tokens.mask, self.settings.without
        if self.training and share:
            drawn = torch.rand(mask.shape, device=mask.device).masked_fill(~mask, -1.0)
            mask = mask & ((drawn > share) | (drawn == drawn.amax(1, keepdim=True)))
        values = tokens.values if self.reduced else self.whitened(tokens.values)
        return Bag.of(self.map(F.dropout(values, self.settings.dropout, self.training)), mask)


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


def masked_softmax(logits: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    """Return the softmax along `dim` of what the mask lets in, 0 elsewhere, and 0 where it lets nothing in.

    Parameters
    ----------
    logits : Tensor (...)
    mask : Tensor, bool, broadcasts to the logits
    """
    lowest = torch.finfo(logits.dtype).min  # unlike -inf, it leaves no NaN where all is masked
    return logits.masked_fill(~mask, lowest).softmax(dim) * mask


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the last axis of what the mask lets in, (..., T) -> (...); 0 where it lets nothing in."""
    return torch.where(mask, values, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)
