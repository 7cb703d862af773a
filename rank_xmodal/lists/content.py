"""Captions and images themselves, for scorers that look at them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.data.image_files import image_files


@dataclass(frozen=True)
class Content:
    """What all queries and candidates of a direction are.

    Attributes
    ----------
    direction : "t2i" or "i2t"
        Which side asks.
    queries, candidates : sequence of str
        Captions of the one side, paths of the other's image files, by row.
    """

    direction: Direction
    queries: Sequence[str]
    candidates: Sequence[str]

    @classmethod
    def of(cls, data: EmbeddingSet, direction: Direction) -> Content:
        """Return the content of a set, its image files where they are now.

        Raises
        ------
        UserError
            If the folder of its images is gone, or a path leads out of it.
        """
        images = image_files(data)
        captions = data.texts["text"].tolist()
        return cls(direction, captions, images) if direction == "t2i" else cls(direction, images, captions)

    def pair(self, query: int, candidate: int) -> tuple[str, str]:
        """Return the caption and the image file of a query's and a candidate's row."""
        asked, found = self.queries[query], self.candidates[candidate]
        return (asked, found) if self.direction == "t2i" else (found, asked)
