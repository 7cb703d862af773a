"""A search in three stages: many candidates by the cosine, fewer by a ranker, the first few by what is expensive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from rank_xmodal.errors import UserError
from rank_xmodal.lists.bags import TokenTable
from rank_xmodal.lists.content import Content
from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.needs import Needs
from rank_xmodal.scorers.base import Scorer
from rank_xmodal.use.given import checked_content, whole
from rank_xmodal.use.hits import Hits
from rank_xmodal.use.index import Index


def check_last(scorer: Scorer) -> None:
    """Check that a scorer can come last, with content alone.

    Raises
    ------
    UserError
        If it has to be fitted, or reads anything else.
    """
    if scorer.fitted_on_pairs or replace(scorer.needs, base=True) != Needs(base=True, content=True):
        raise UserError(
            f"scorer={scorer.name} can't come last: it has to be fitted, or doesn't look at the captions and images "
            "themselves. Use blip_itm or remote."
        )


@dataclass(frozen=True)
class Cascade:
    """An index whose best are put in order again by a scorer that looks at the captions and images themselves.

    Attributes
    ----------
    index : Index
    last : Scorer
        Such as blip_itm or remote: it needs no fitting, and its setting `top` says how many it scores.
    content : Content
        Of the index' corpus, by row; its queries are those of each search.

    Raises
    ------
    UserError
        If `last` has to be fitted, or looks at anything but content.
    ValueError
        If the content is not that of the corpus.

    Example
    -------
    >>> from rank_xmodal import scorers
    >>> last = scorers.get("blip_itm", top=5)
    >>> cascade = Cascade(index, last, Content("t2i", [], image_files))  # doctest: +SKIP
    >>> cascade.search(query_embeddings, captions, k=5, depth=1_000).ids.shape  # doctest: +SKIP
    (Q, 5)
    """

    index: Index
    last: Scorer
    content: Content

    def __post_init__(self) -> None:
        check_last(self.last)
        self._checked(self.content.candidates, self.index.store.next_row, "candidates")
        self.last.to(self.index.device)

    def _checked(self, content: Sequence[str], count: int, what: str) -> list[str]:
        images = (self.content.direction == "t2i") == (what == "candidates")
        return checked_content(content, True, count, images, what, self.last.label) or []

    def search(
        self,
        queries: np.ndarray,
        content: Sequence[str],
        k: int = 10,
        *,
        depth: int = 1_000,
        ranked: int = 50,
        tokens: TokenTable | None = None,
        batch_size: int = 64,
    ) -> Hits:
        """Return the k best of each query: `depth` by the first stage, `ranked` by the ranker, the first few by `last`.

        Their scores are those of `last`; a probability is still the ranker's.

        Parameters
        ----------
        queries : ndarray (Q, dim), any float
        content : sequence of Q str
            Their captions (t2i) or image files (i2t).
        k : int
        depth : int
            Candidates that the ranker scores.
        ranked : int
            The best of them, which `last` gets; k where that is more.
        tokens, batch_size
            As `Index.search` takes them.

        Raises
        ------
        ValueError
            As `Index.search`, or if ranked is no integer of 1 or more, or there is not one content for each query.
        UserError
            As the scorers.
        """
        size = len(self.index)
        k, most = whole("k", k, size), min(whole("ranked", ranked), whole("depth", depth), size)
        asked = self._checked(content, len(queries), "queries")
        own = asked if self.index.content is not None else None
        hits = self.index.search(queries, max(most, k), batch_size, depth=depth, tokens=tokens, content=own)
        if not len(asked):
            return hits.take(np.empty((0, k), dtype=np.int64), np.empty((0, k), dtype=np.float32))
        scores = self._scored(queries, hits, asked)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return hits.take(order, np.take_along_axis(scores, order, 1))

    @torch.inference_mode()
    def _scored(self, queries: np.ndarray, hits: Hits, asked: list[str]) -> np.ndarray:
        """Return the last scorer's scores of hits, (Q, L) float32."""
        device, rows = self.index.device, torch.from_numpy(hits.rows).clamp(min=0)
        batch = ListBatch(
            query=torch.from_numpy(np.asarray(queries, dtype=np.float32)).to(device),
            candidates=torch.empty(*rows.shape, 0, device=device),
            cosine=torch.from_numpy(hits.scores).to(device),  # the stage before it is the ranker
            neighbour_cosine=torch.empty(*rows.shape, 0, device=device),
            mask=torch.from_numpy(hits.rows >= 0).to(device),
            query_row=torch.arange(len(asked), device=device),
            rows=rows.to(device),
            content=replace(self.content, queries=asked),
        )
        scores = self.last.score(batch).float().cpu().numpy()
        return np.where(hits.rows < 0, -np.inf, scores)
