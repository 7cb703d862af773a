"""How well two maps find items of the query's class: what heads that learn from classes choose their settings by."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Self

from rank_xmodal.data.embedding_set import DIRECTIONS, EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.scorers.projections.pairs import labels_of, table_of

_BLOCK = 1_024  # queries at a time


def mean_average_precision(scores: Tensor, relevant: Tensor) -> Tensor:
    """Return the average precision of each ranking over a whole gallery, (Q,) float64; 0 where nothing is relevant.

    The mean over the relevant items of the precision at their ranks, divided by the number of all of them. Equal
    scores keep the order of the gallery.

    Parameters
    ----------
    scores : Tensor (Q, n)
    relevant : Tensor (Q, n), bool
    """
    order = scores.sort(dim=1, descending=True, stable=True).indices
    hit = relevant.gather(1, order).double()
    rank = torch.arange(1, hit.shape[1] + 1, device=hit.device)
    return (hit.cumsum(1) / rank * hit).sum(1) / hit.sum(1).clamp(min=1)


class ClassValidation:
    """MAP of scores over the whole gallery of the split val, the mean of both directions; relevant is a shared class.

    Parameters
    ----------
    data : EmbeddingSet
        Labelled.
    device : torch.device or str

    Attributes
    ----------
    images, texts : Tensor (n, d) and (m, e), float32
    relevant : Tensor (n, m), bool

    Raises
    ------
    UserError
        If the set has no classes, or no item of the split val.
    """

    def __init__(self, data: EmbeddingSet, device: torch.device | str = "cpu") -> None:
        images, texts = (data.candidate_rows(direction, "val") for direction in DIRECTIONS)
        labels = labels_of(data, images, texts, device)
        if not labels:
            raise UserError(f"{data.root or data.name}: has no classes. Give the captions table a column 'labels'.")
        self.images, self.texts = table_of(data.image_emb, images, device), table_of(data.text_emb, texts, device)
        self.relevant = labels["image_labels"] @ labels["text_labels"].T > 0

    @classmethod
    def where_there_is_one(cls, data: EmbeddingSet, device: torch.device | str = "cpu") -> Self | None:
        """Return that of a labelled set with a split val, None of any other."""
        held = data.labelled and all((table["split"] == "val").any() for table in (data.images, data.texts))
        return cls(data, device) if held else None

    def map(self, images: Tensor, texts: Tensor) -> float:
        """Return it for items in a common space, (n, k) and (m, k), scored by their inner product."""
        found = []
        for asking, offered, relevant in ((images, texts, self.relevant), (texts, images, self.relevant.T)):
            parts = [
                mean_average_precision(block @ offered.T, own)
                for block, own in zip(asking.split(_BLOCK), relevant.split(_BLOCK), strict=True)
            ]
            found.append(torch.cat(parts).mean())
        return float(sum(found) / 2)
