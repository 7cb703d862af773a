"""A corpus ready to be searched."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from rank_xmodal.evaluation.calibration import Calibration
from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.retrieval.exact import exact_cosine
from rank_xmodal.retrieval.query_bank import Neighbours
from rank_xmodal.retrieval.retriever import ExactRetriever, Retriever, Space, Unmapped
from rank_xmodal.scorers.stack import Stack
from rank_xmodal.use.normalise import normalised

DEPTH = 50  # candidates that the first stage hands to the ranker


@dataclass(frozen=True)
class Hits:
    """Search results, best first.

    Attributes
    ----------
    ids : ndarray (Q, k)
    scores : ndarray (Q, k), float32
        The ranker's; comparable within a query.
    cosine : ndarray (Q, k), float32
    probability : ndarray (Q, k), float64, or None
        Of relevance, comparable across queries; where the ranker was trained with calibrate=true.
    """

    ids: np.ndarray
    scores: np.ndarray
    cosine: np.ndarray
    probability: np.ndarray | None = None


@dataclass(frozen=True)
class Index:
    """A corpus ready to be searched; made by `Reranker.index`.

    Attributes
    ----------
    stack : Stack
    candidates : ndarray (n, d), float16, L2-normalised
    ids : ndarray (n,)
    device : torch.device
    retriever : Retriever
        The first stage, which has taken the corpus.
    neighbours : Neighbours
    mapped : ndarray (n, k)
        The candidates in the base's space.
    projected : Tensor (n, p) or None
        What the scorer made of each candidate alone.
    calibration : Calibration or None
    """

    stack: Stack
    candidates: np.ndarray
    ids: np.ndarray
    device: torch.device
    retriever: Retriever
    neighbours: Neighbours
    mapped: np.ndarray
    projected: torch.Tensor | None = None
    calibration: Calibration | None = None

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
    ) -> Index:
        """Prepare candidates (n, d), float16 of length 1; the first stage searches in `space`, by default CLIP's.

        `own` is as `query_bank.neighbours` takes it.
        """
        return cls(
            stack,
            candidates,
            ids,
            device,
            ExactRetriever(space).index(candidates),
            stack.neighbours(candidates, own),
            stack.space.map_candidates(candidates),
            stack.scorer.project(torch.from_numpy(candidates).to(device)),
            calibration,
        )

    @torch.inference_mode()
    def search(self, queries: np.ndarray, k: int = 10, batch_size: int = 64) -> Hits:
        """Return the k best candidates of each query: the first stage's top 50, or top k where that is more, reordered.

        Parameters
        ----------
        queries : ndarray (Q, dim), any float
        k : int
        batch_size : int
            Queries scored at a time.

        Raises
        ------
        ValueError
            If k is no integer between 1 and the size of the corpus, batch_size none of 1 or more, or the queries' shape
            is wrong.
        """
        k = _whole("k", k, len(self.candidates))
        batch_size = _whole("batch_size", batch_size)
        asked = normalised(queries, self.candidates.shape[1], "queries")
        rows, found_by = self.retriever.top(asked, min(max(DEPTH, k), len(self.candidates)))
        every = np.arange(len(asked))
        # In CLIP's own space the retriever's scores are the cosines already.
        space = self.stack.space
        by_clip = isinstance(self.retriever, ExactRetriever) and isinstance(self.retriever.space, Unmapped)
        cosine = found_by if by_clip else exact_cosine(asked, self.candidates, every, rows)
        base = cosine
        if not isinstance(space, Unmapped):
            base = exact_cosine(space.map_queries(asked), self.mapped, every, rows)
        needed = self.projected is None or self.stack.scorer.needs.candidates
        looked_at = self.candidates if needed else self.candidates[:, :0]
        scores = []
        for start in range(0, len(asked), batch_size):
            part = slice(start, start + batch_size)
            index = torch.from_numpy(rows[part].astype(np.int64))
            batch = ListBatch(
                query=torch.from_numpy(asked[part]).to(self.device).float(),
                candidates=torch.from_numpy(looked_at[rows[part]]).to(self.device).float(),
                cosine=torch.from_numpy(base[part]).to(self.device),
                neighbour_cosine=self.neighbours.cosine[index].to(self.device),
                mask=torch.ones(index.shape, dtype=torch.bool, device=self.device),
                rows=index.to(self.device),
                projected=None if self.projected is None else self.projected[index.to(self.device)],
            )
            scores.append(self.stack.scorer.score(batch).float().cpu())
        found = torch.cat(scores) if scores else torch.empty(0, rows.shape[1])
        order = found.sort(dim=1, descending=True, stable=True).indices[:, :k].numpy()
        probability = None if self.calibration is None else self.calibration.probability(found).numpy()
        return Hits(
            ids=self.ids[np.take_along_axis(rows, order, 1)],
            scores=np.take_along_axis(found.numpy(), order, 1),
            cosine=np.take_along_axis(cosine, order, 1),
            probability=None if probability is None else np.take_along_axis(probability, order, 1),
        )


def _whole(name: str, value: int, most: int | None = None) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or (most is not None and number > most):
        limits = "of 1 or more" if most is None else f"between 1 and {most}, the size of the corpus"
        raise ValueError(f"{name}={value!r}: must be an integer {limits}.")
    return number
