"""Which images meet which captions: every one of a batch of pairs, or those of lists. A head sees no difference."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from rank_xmodal.data.embedding_set import Direction


class Pairing(ABC):
    """B x L pairs of an image and a caption."""

    @abstractmethod
    def images(self, values: Tensor) -> Tensor:
        """Return what each pair's image has, (images, ...) -> (B, L, ...) or what broadcasts to it."""

    @abstractmethod
    def texts(self, values: Tensor) -> Tensor:
        """Return what each pair's caption has, (captions, ...) -> (B, L, ...) or what broadcasts to it."""

    @abstractmethod
    def products(self, words: Tensor, cells: Tensor) -> Tensor:
        """Return each pair's inner products, (captions, T, k) and (images, P, k) -> (B, L, T, P)."""


class Grid(Pairing):
    """Every caption with every image: B captions, L images."""

    def images(self, values: Tensor) -> Tensor:
        """See `Pairing.images`: (1, L, ...)."""
        return values[None]

    def texts(self, values: Tensor) -> Tensor:
        """See `Pairing.texts`: (B, 1, ...)."""
        return values[:, None]

    def products(self, words: Tensor, cells: Tensor) -> Tensor:
        """See `Pairing.products`; one product of two matrices."""
        found = words.flatten(0, 1) @ cells.flatten(0, 1).T
        return found.view(*words.shape[:2], *cells.shape[:2]).transpose(1, 2)


class OfLists(Pairing):
    """Each query with the candidates of its list.

    Parameters
    ----------
    direction : "t2i" or "i2t"
    place : Tensor (B, L), int64
        Which candidate stands where.
    """

    def __init__(self, direction: Direction, place: Tensor) -> None:
        self.asked_by_texts, self.place = direction == "t2i", place

    def _listed(self, values: Tensor) -> Tensor:
        return values.index_select(0, self.place.flatten()).unflatten(0, self.place.shape)

    def images(self, values: Tensor) -> Tensor:
        """See `Pairing.images`."""
        return self._listed(values) if self.asked_by_texts else values[:, None]

    def texts(self, values: Tensor) -> Tensor:
        """See `Pairing.texts`."""
        return values[:, None] if self.asked_by_texts else self._listed(values)

    def products(self, words: Tensor, cells: Tensor) -> Tensor:
        """See `Pairing.products`; a product for each query, with all tokens of its list."""
        b, length = self.place.shape
        if self.asked_by_texts:
            listed = self._listed(cells).flatten(1, 2)
            found: Tensor = (words @ listed.transpose(1, 2)).view(b, -1, length, cells.shape[1])
            return found.transpose(1, 2)
        listed = self._listed(words).flatten(1, 2)
        return (listed @ cells.transpose(1, 2)).view(b, length, words.shape[1], cells.shape[1])
