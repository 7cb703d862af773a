"""Views: an image is summarised in several ways, and a caption is held against the one that suits it best."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rank_xmodal.lists.bags import Bag
from rank_xmodal.scorers.local.base import Local, LocalSettings
from rank_xmodal.scorers.local.network import LocalNetwork, masked_softmax
from rank_xmodal.scorers.local.pairing import Pairing

_START = 0.1  # deviation of the logits at the start


def summarised(values: Tensor, mask: Tensor, logits: Tensor) -> Tensor:
    """Return ``v_k = sum_p softmax_p(a_pk) x_p``, the views of each item, (n, K, d); 0 for an item without tokens.

    Qu et al. (CAMERA), ACM MM 2020, https://doi.org/10.1145/3394171.3413961: multi-view summarisation.

    Parameters
    ----------
    values : Tensor (n, P, d)
    mask : Tensor (n, P), bool
    logits : Tensor (n, P, K)
        What a token counts in a view, before the softmax over the tokens.
    """
    return masked_softmax(logits, mask[..., None], 1).transpose(1, 2) @ values


def likeness(logits: Tensor, mask: Tensor) -> Tensor:
    """Return ``|A^T A - I|^2``, squared entries summed, in the mean over the items, a scalar: 0 if no views are alike.

    The diversity term of CAMERA (see `summarised`). The columns of A are the views' logits, of length 1 over the
    tokens. They are taken before the softmax: behind it all entries are positive, and no two views could be orthogonal
    unless they shared no token at all.

    Parameters
    ----------
    logits : Tensor (n, P, K)
    mask : Tensor (n, P), bool
    """
    columns = F.normalize(logits * mask[..., None], dim=1)
    gram = columns.transpose(1, 2) @ columns
    return (gram - torch.eye(gram.shape[-1]).to(gram)).square().sum((1, 2)).mean()


def best_view(views: Tensor, captions: Tensor, pairing: Pairing) -> Tensor:
    """Return the largest cosine of a caption with one of an image's views, (B, L).

    Parameters
    ----------
    views : Tensor (images, K, k)
        Of length 1.
    captions : Tensor (captions, 1, k)
        Of length 1.
    pairing : Pairing
    """
    return pairing.products(captions, views)[..., 0, :].amax(-1)


class Summary(nn.Module):
    """Views of each item's tokens, (n, P, k) -> (n, K, k), by logits that a linear map makes of each token.

    The map starts small, so every view starts near the mean of the tokens; but not at 0, where all views would be the
    same, and would learn the same.

    Parameters
    ----------
    width : int
        k.
    views : int
        K.
    """

    def __init__(self, width: int, views: int) -> None:
        super().__init__()
        self.logits = nn.Linear(width, views, bias=False)  # a softmax over the tokens feels no bias
        nn.init.normal_(self.logits.weight, std=_START / width**0.5)

    def forward(self, tokens: Bag) -> tuple[Tensor, Tensor]:
        """Return the views, of length 1, and the logits (n, P, K) that they come from."""
        even = F.layer_norm(tokens.values, tokens.values.shape[-1:])  # however long the maps have made them
        logits = self.logits(even)
        return F.normalize(summarised(tokens.values, tokens.mask, logits), dim=-1), logits


class MultiView(nn.Module):
    """Views of an image and the one vector of a caption, of mapped tokens; and how alike the views of a batch are.

    Parameters
    ----------
    settings : ViewsSettings
    """

    def __init__(self, settings: ViewsSettings) -> None:
        super().__init__()
        self.cells, self.words = Summary(settings.width, settings.views), Summary(settings.width, 1)
        self.weight = settings.diversity
        self._alike: Tensor | None = None

    def seen(self, cells: Bag) -> Tensor:
        """Return the views of images, (n, K, k), of length 1."""
        views: Tensor
        views, logits = self.cells(cells)
        if self.training and self.weight:
            self._alike = likeness(logits, cells.mask)
        return views

    def read(self, words: Bag) -> Tensor:
        """Return the vector of captions, (n, 1, k), of length 1."""
        vector: Tensor = self.words(words)[0]
        return vector

    def penalty(self) -> Tensor | None:
        """Return the weighted diversity term of the images that were last seen in training; once."""
        alike, self._alike = self._alike, None
        return None if alike is None else self.weight * alike


class ViewsSettings(LocalSettings):
    """How many views, and how strongly they are kept apart; the paper's."""

    views: int = Field(12, ge=1, le=1_000, description="summaries of an image")
    diversity: float = Field(0.01, ge=0, le=1_000, description="weight of the term that keeps them apart")


class _Network(LocalNetwork):
    def __init__(self, image_width: int, text_width: int, settings: ViewsSettings) -> None:
        super().__init__(image_width, text_width, settings)
        self.views = MultiView(settings)

    def encode_image(self, cells: Bag) -> Bag:
        views = self.views.seen(self.image(cells))
        return Bag.of(views, views.new_ones(views.shape[:2], dtype=torch.bool))

    def encode_text(self, words: Bag) -> Bag:
        vector = self.views.read(self.text(words))
        return Bag.of(vector, vector.new_ones(vector.shape[:2], dtype=torch.bool))

    def match(self, images: Bag, texts: Bag, pairing: Pairing) -> Tensor:
        return best_view(images.values, texts.values, pairing)

    def penalty(self) -> Tensor | None:
        return self.views.penalty()


class Views(Local):
    """``score = max over the views of the cosine(view, caption)``, each view a weighted mean of the cells.

    The caption's vector comes from its words as a view does from cells. CAMERA makes the logits with dilated
    convolutions along the detected regions, which have no order; here a linear map makes them of each cell alone. Its
    diversity term sums over the batch, as does its ranking loss; here both are means, and the weight stays.

    References
    ----------
    Qu et al.: Context-Aware Multi-View Summarization Network for Image-Text Matching (CAMERA), ACM MM 2020,
    https://doi.org/10.1145/3394171.3413961.
    """

    name = "views"
    label = "multi-view"
    paper = (
        "Qu et al.: Context-Aware Multi-View Summarization Network for Image-Text Matching, ACM MM 2020, "
        "https://doi.org/10.1145/3394171.3413961"
    )
    Settings: ClassVar[type[ViewsSettings]] = ViewsSettings
    settings: ViewsSettings
    head = _Network
