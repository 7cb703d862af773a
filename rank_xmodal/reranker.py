"""A trained ranker in use: project the corpus once, then search it."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rank_xmodal.calibration import Calibration
from rank_xmodal.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.query_bank import Neighbours, neighbours
from rank_xmodal.ranker import ListBatch
from rank_xmodal.ranker_folder import load, pick_device
from rank_xmodal.topk import top_candidates

DEPTH = 50  # candidates that CLIP hands to the ranker
_BLOCK = 16_384  # rows normalised at a time


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


class Reranker:
    """CLIP's top candidates, reordered by a trained ranker.

    Example
    -------
    >>> reranker = Reranker.from_pretrained("runs/listnet-t2i")        # doctest: +SKIP
    >>> index = reranker.index(image_embeddings, ids=image_ids)        # doctest: +SKIP
    >>> hits = index.search(query_embeddings, k=10)                    # doctest: +SKIP
    >>> hits.ids.shape, hits.scores.shape                              # doctest: +SKIP
    ((Q, 10), (Q, 10))
    """

    def __init__(self, model: nn.Module, bank: np.ndarray, facts: dict[str, Any], device: torch.device) -> None:
        self.model, self.bank, self.facts, self.device = model.to(device).eval(), bank, facts, device
        self.calibration = Calibration(**facts["calibration"]) if facts.get("calibration") else None

    @classmethod
    def from_pretrained(cls, path: Path | str, device: str = "auto") -> Reranker:
        """Load a run's folder.

        Raises
        ------
        UserError
            If it holds no whole ranker.
        """
        return cls(*load(path), pick_device(device))

    @property
    def dim(self) -> int:
        """Width of the embeddings it takes."""
        return int(self.bank.shape[1])

    def check_made_for(self, data: EmbeddingSet, name: str) -> None:
        """Check that a set's embeddings are of the encoder that this ranker, called `name`, was trained with.

        Raises
        ------
        UserError
            If they are of another width, or of other weights where both sides say which.
        """
        where = data.root or data.name
        if self.dim != data.dim:
            raise UserError(
                f"{name}: takes embeddings {self.dim} wide, those of {where} are {data.dim} wide. Name an embedding "
                "set of the encoder it was trained with."
            )
        own = self.facts.get("encoder") or {}
        mine, other = own.get("weights_sha256"), data.meta.get("weights_sha256")
        if mine and other and mine != other:
            raise UserError(
                f"{name}: was trained with the encoder {own.get('encoder')} {own.get('pretrained')} (weights "
                f"{mine[:12]}), {where} was made by {data.meta.get('encoder')} {data.meta.get('pretrained')} (weights "
                f"{other[:12]}): its scores would mean nothing. Name an embedding set of its own encoder."
            )

    def index(self, embeddings: np.ndarray, ids: Sequence[Any] | np.ndarray | None = None) -> Index:
        """Prepare a corpus for searching.

        Parameters
        ----------
        embeddings : ndarray (n, dim), any float; scaled to length 1 where they aren't
        ids : sequence of n, by default 0 .. n - 1

        Raises
        ------
        ValueError
            If the shape is wrong, a row is zero or not finite, or the ids are not one for each.
        """
        candidates = self._normalised(embeddings, "embeddings")
        names = np.arange(len(candidates)) if ids is None else np.asarray(ids)
        if names.shape != (len(candidates),):
            raise ValueError(f"ids of shape {names.shape} for {len(candidates)} embeddings: give one id for each.")
        project = getattr(self.model, "project", lambda table: None)
        projected = project(torch.from_numpy(candidates).to(self.device))
        needed = bool(getattr(self.model, "needs_neighbours", False))
        near = neighbours(candidates, self.bank) if needed else Neighbours.none(len(candidates))
        return Index(self, candidates, names, near, projected)

    def _normalised(self, embeddings: np.ndarray, what: str) -> np.ndarray:
        array = np.asarray(embeddings)
        if array.ndim != 2 or array.shape[1] != self.dim:
            raise ValueError(f"{what} have shape {array.shape}; this ranker takes (n, {self.dim}).")
        result = np.empty(array.shape, dtype=np.float16)
        for start in range(0, len(array), _BLOCK):  # a corpus of millions must not stand in memory as float32
            block = np.asarray(array[start : start + _BLOCK], dtype=np.float32)
            norm = np.linalg.norm(block, axis=1, keepdims=True)
            bad = np.flatnonzero(~(np.isfinite(norm) & (norm > 0)))
            if len(bad):
                raise ValueError(f"{what}: row {start + bad[0]} is zero or not finite.")
            result[start : start + _BLOCK] = block / norm
        return result


@dataclass(frozen=True)
class Index:
    """A corpus ready to be searched; made by `Reranker.index`."""

    reranker: Reranker
    candidates: np.ndarray
    ids: np.ndarray
    neighbours: Neighbours
    projected: torch.Tensor | None = None

    @torch.inference_mode()
    def search(self, queries: np.ndarray, k: int = 10, batch_size: int = 64) -> Hits:
        """Return the k best candidates of each query: CLIP's top 50, or top k where that is more, reordered.

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
        asked = self.reranker._normalised(queries, "queries")
        rows, cosine = top_candidates(asked, self.candidates, min(max(DEPTH, k), len(self.candidates)))
        device = self.reranker.device
        scores = []
        needed = self.projected is None or getattr(self.reranker.model, "needs_candidates", True)
        looked_at = self.candidates if needed else self.candidates[:, :0]
        for start in range(0, len(asked), batch_size):
            part = slice(start, start + batch_size)
            index = torch.from_numpy(rows[part].astype(np.int64))
            batch = ListBatch(
                query=torch.from_numpy(asked[part]).to(device).float(),
                candidates=torch.from_numpy(looked_at[rows[part]]).to(device).float(),
                cosine=torch.from_numpy(cosine[part]).to(device),
                neighbour_cosine=self.neighbours.cosine[index].to(device),
                mask=torch.ones(index.shape, dtype=torch.bool, device=device),
                projected=None if self.projected is None else self.projected[index.to(device)],
            )
            scores.append(self.reranker.model(batch).float().cpu())
        found = torch.cat(scores) if scores else torch.empty(0, rows.shape[1])
        order = found.sort(dim=1, descending=True, stable=True).indices[:, :k].numpy()
        calibration = self.reranker.calibration
        probability = None if calibration is None else calibration.probability(found).numpy()
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
