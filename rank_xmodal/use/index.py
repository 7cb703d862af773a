"""A corpus ready to be searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
import torch

from rank_xmodal.evaluation.calibration import Calibration
from rank_xmodal.lists.bags import TokenTable
from rank_xmodal.lists.content import Content
from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.list_tokens import ListTokens
from rank_xmodal.retrieval.exact import exact_cosine
from rank_xmodal.retrieval.first_stage import retriever_of
from rank_xmodal.retrieval.query_bank import Neighbours
from rank_xmodal.retrieval.retriever import ExactRetriever, Retriever, Space, Unmapped
from rank_xmodal.scorers.stack import Stack
from rank_xmodal.use.given import checked_content, checked_tokens, whole
from rank_xmodal.use.normalise import as_they_are, normalised

DEPTH = 50  # candidates that the first stage hands to the ranker


@dataclass(frozen=True)
class Hits:
    """Search results, best first.

    Attributes
    ----------
    ids : ndarray (Q, k)
    rows : ndarray (Q, k), int64
        Where in the corpus they stand.
    scores : ndarray (Q, k), float32
        The ranker's; comparable within a query.
    cosine : ndarray (Q, k), float32
        CLIP's, whatever found the candidate; where images and texts share no space, the first stage's score, of codes
        their inner product.
    probability : ndarray (Q, k), float64, or None
        Of relevance, comparable across queries; where the ranker was trained with calibrate=true.
    """

    ids: np.ndarray
    rows: np.ndarray
    scores: np.ndarray
    cosine: np.ndarray
    probability: np.ndarray | None = None

    def take(self, places: np.ndarray, scores: np.ndarray) -> Hits:
        """Return some of each query's hits, (Q, k) of their places, with scores of their own."""
        ids, rows, cosine = (np.take_along_axis(part, places, 1) for part in (self.ids, self.rows, self.cosine))
        known = self.probability
        return Hits(ids, rows, scores, cosine, None if known is None else np.take_along_axis(known, places, 1))


@dataclass(frozen=True)
class Index:
    """A corpus ready to be searched; made by `Reranker.index`.

    Attributes
    ----------
    stack : Stack
    candidates : ndarray (n, d), float16, L2-normalised; float32 as they are where sides are not aligned
    ids : ndarray (n,)
    device : torch.device
    retriever : Retriever
        The first stage, which has taken the corpus.
    neighbours : Neighbours
    base : Retriever
        The corpus in the base's space, whose score the scorer may see; the first stage itself where it searches there.
    projected : Tensor (n, p) or None
        What the scorer made of each candidate alone.
    calibration : Calibration or None
    tokens : TokenTable of n, or None
        The candidates', on the CPU, where the scorer reads tokens.
    query_width : int or None
        Width of the queries' tokens, where the ranker says it.
    content : Content or None
        The candidates', and no queries, where the scorer looks at them.
    """

    stack: Stack
    candidates: np.ndarray
    ids: np.ndarray
    device: torch.device
    retriever: Retriever
    neighbours: Neighbours
    base: Retriever
    projected: torch.Tensor | None = None
    calibration: Calibration | None = None
    tokens: TokenTable | None = None
    query_width: int | None = None
    content: Content | None = None

    @classmethod
    def of(
        cls,
        stack: Stack,
        candidates: np.ndarray,
        ids: np.ndarray,
        device: torch.device,
        space: Space | None = None,
        calibration: Calibration | None = None,
        own: sp.csr_matrix | None = None,
        tokens: TokenTable | None = None,
        query_width: int | None = None,
        content: Content | None = None,
    ) -> Index:
        """Prepare candidates (n, d), float16 of length 1; the first stage searches in `space`, by default CLIP's.

        Of a space of codes they are kept packed: see `retrieval.first_stage`.
        `own` is as `query_bank.neighbours` takes it. Tokens are not projected here: of a large corpus that would take
        minutes and more memory than the tokens themselves, and a search reads those of its few candidates once.
        """
        retriever = retriever_of(space).index(candidates)
        return cls(
            stack,
            candidates,
            ids,
            device,
            retriever,
            stack.neighbours(candidates, own),
            retriever if space is stack.space else retriever_of(stack.space).index(candidates),
            stack.scorer.project(torch.from_numpy(candidates).to(device)),
            calibration,
            tokens,
            query_width,
            content,
        )

    @torch.inference_mode()
    def search(
        self,
        queries: np.ndarray,
        k: int = 10,
        batch_size: int = 64,
        *,
        depth: int = DEPTH,
        tokens: TokenTable | None = None,
        content: Sequence[str] | None = None,
    ) -> Hits:
        """Return the k best candidates of each query: the first stage's top `depth` (k where that is more), reordered.

        Parameters
        ----------
        queries : ndarray (Q, dim), any float
        k : int
        batch_size : int
            Queries scored at a time; fewer where `depth` is above 50.
        depth : int
            Candidates that the first stage finds; all of a smaller corpus.
        tokens : TokenTable of Q, or None
            The queries' words or cells, exactly where the scorer reads tokens.
        content : sequence of Q str, or None
            The queries' captions or image files, exactly where the scorer looks at them.

        Raises
        ------
        ValueError
            If k is no integer between 1 and the size of the corpus, batch_size or depth none of 1 or more, the queries'
            shape is wrong, or tokens or content are not what the scorer takes.
        """
        k = whole("k", k, len(self.candidates))
        depth = min(max(whole("depth", depth), k), len(self.candidates))
        batch_size = max(whole("batch_size", batch_size) * DEPTH // max(depth, DEPTH), 1)
        dims = self.stack.dims
        if dims is None:
            asked = normalised(queries, self.candidates.shape[1], "queries")
        else:
            asked = as_they_are(queries, dims[0], "queries")
        scorer = self.stack.scorer
        words = checked_tokens(tokens, scorer.needs.tokens, len(asked), self.query_width, "queries", scorer.label)
        local = None if words is None or self.tokens is None else ListTokens(words, self.tokens)
        look = self._asked(content, len(asked))
        rows, found_by = self.retriever.top(asked, depth)
        # In CLIP's own space the retriever's scores are the cosines already.
        by_clip = isinstance(self.retriever, ExactRetriever) and isinstance(self.retriever.space, Unmapped)
        # Features of two kinds have no other cosine.
        cosine = found_by if by_clip or dims else exact_cosine(asked, self.candidates, np.arange(len(asked)), rows)
        base = cosine
        if not isinstance(self.stack.space, Unmapped):
            base = found_by if self.base is self.retriever else self.base.pairs(asked, rows)
        found = self._scored(asked, rows, base, batch_size, local, look)
        order = found.sort(dim=1, descending=True, stable=True).indices[:, :k].numpy()
        probability = None if self.calibration is None else self.calibration.probability(found).numpy()
        hits = Hits(self.ids[rows], rows.astype(np.int64), found.numpy(), cosine, probability)
        return hits.take(order, np.take_along_axis(found.numpy(), order, 1))

    def _asked(self, content: Sequence[str] | None, count: int) -> Content | None:
        """Return the corpus' content with that of `count` queries."""
        corpus, label = self.content, self.stack.scorer.label
        images = corpus is not None and corpus.direction == "i2t"
        given = checked_content(content, corpus is not None, count, images, "queries", label)
        return None if corpus is None or given is None else replace(corpus, queries=given)

    def _scored(
        self,
        asked: np.ndarray,
        rows: np.ndarray,
        base: np.ndarray,
        batch_size: int,
        local: ListTokens | None,
        look: Content | None,
    ) -> torch.Tensor:
        """Return the scorer's score of every place, (Q, L) float32; `base` (Q, L) is the base's."""
        scorer, every = self.stack.scorer, np.arange(len(asked))
        needed = scorer.needs.candidates or (self.projected is None and look is None)
        looked_at = self.candidates if needed else self.candidates[:, :0]
        if look is not None:  # as in `score_lists`
            batch_size = max(len(asked), 1)
        scores = []
        for start in range(0, len(asked), batch_size):
            part = slice(start, start + batch_size)
            index = torch.from_numpy(rows[part].astype(np.int64))
            query_row = torch.from_numpy(every[part])
            batch = ListBatch(
                query=torch.from_numpy(asked[part]).to(self.device).float(),
                candidates=torch.from_numpy(looked_at[rows[part]]).to(self.device).float(),
                cosine=torch.from_numpy(base[part]).to(self.device),
                neighbour_cosine=self.neighbours.cosine[index].to(self.device),
                mask=torch.ones(index.shape, dtype=torch.bool, device=self.device),
                query_row=query_row.to(self.device),
                rows=index.to(self.device),
                projected=None if self.projected is None else self.projected[index.to(self.device)],
                tokens=None if local is None else local.batch(query_row, index).to(self.device),
                content=look,
            )
            scores.append(scorer.score(batch).float().cpu())
        return torch.cat(scores) if scores else torch.empty(0, rows.shape[1])
