"""A trained ranker in use: project the corpus once, then search it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
import torch

from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.devices import pick_device
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.calibration import Calibration
from rank_xmodal.scorers.folder import load
from rank_xmodal.scorers.stack import Stack
from rank_xmodal.use.index import Index
from rank_xmodal.use.normalise import normalised

FirstStage = Literal["clip", "own"]


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

    def __init__(self, stack: Stack, facts: dict[str, Any], device: torch.device) -> None:
        self.stack, self.facts, self.device = stack.to(device), facts, device
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
        return int(self.stack.bank.shape[1])

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

    def index(
        self,
        embeddings: np.ndarray,
        ids: Sequence[Any] | np.ndarray | None = None,
        *,
        first_stage: FirstStage = "clip",
        own: sp.csr_matrix | None = None,
    ) -> Index:
        """Prepare a corpus for searching.

        Parameters
        ----------
        embeddings : ndarray (n, dim), any float; scaled to length 1 where they aren't
        ids : sequence of n, by default 0 .. n - 1
        first_stage : "clip" or "own"
            What finds the candidates that are put in order: CLIP's cosine, or that of the ranker's own space where it
            has one, as a projection does.
        own : csr_matrix (n, queries of the bank) or None
            Which queries of the bank ask for which embeddings, where the corpus holds training items: see
            `rank_xmodal.retrieval.query_bank.own_queries`.

        Raises
        ------
        ValueError
            If the shape is wrong, a row is zero or not finite, the ids are not one for each, or the ranker has no space
            of its own.
        """
        candidates = normalised(embeddings, self.dim, "embeddings")
        names = np.arange(len(candidates)) if ids is None else np.asarray(ids)
        if names.shape != (len(candidates),):
            raise ValueError(f"ids of shape {names.shape} for {len(candidates)} embeddings: give one id for each.")
        space = None
        if first_stage == "own":
            space = self.stack.own_space
            if space is None:
                raise ValueError(f"first_stage='own': {self.stack.scorer.label} has no space of its own; use 'clip'.")
        return Index.of(self.stack, candidates, names, self.device, space, self.calibration, own)
