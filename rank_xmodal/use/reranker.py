"""A trained ranker in use: project the corpus once, then search it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
import torch

from rank_xmodal.data.embedding_set import EmbeddingSet, check_direction
from rank_xmodal.devices import pick_device
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.calibration import Calibration
from rank_xmodal.lists.bags import TokenTable
from rank_xmodal.lists.content import Content
from rank_xmodal.retrieval.retriever import Space
from rank_xmodal.scorers.folder import load
from rank_xmodal.scorers.stack import Stack
from rank_xmodal.use.given import checked_content, checked_tokens, differing, kind_of
from rank_xmodal.use.index import Index
from rank_xmodal.use.normalise import as_they_are, normalised

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
        """Width of the embeddings it takes; of queries, where candidates are of another kind."""
        return int(self.stack.bank.shape[1])

    def check_made_for(self, data: EmbeddingSet, name: str) -> None:
        """Check that a set's embeddings are of the encoder that this ranker, called `name`, was trained with.

        Raises
        ------
        UserError
            If they are of another width, or of other weights where both sides say which; or if the scorer reads tokens
            and the set has none, or others than it was trained on, or it looks at images and the set doesn't say where
            they are.
        """
        where = data.root or data.name
        self._check_widths(data, name)
        own = self.facts.get("encoder") or {}
        mine, other = own.get("weights_sha256"), data.meta.get("weights_sha256")
        if mine and other and mine != other:
            raise UserError(
                f"{name}: was trained with the encoder {own.get('encoder')} {own.get('pretrained')} (weights "
                f"{mine[:12]}), {where} was made by {data.meta.get('encoder')} {data.meta.get('pretrained')} (weights "
                f"{other[:12]}): its scores would mean nothing. Name an embedding set of its own encoder."
            )
        scorer = self.stack.scorer
        replace(scorer.needs, tokens=False, labels=False).check(scorer.name, data)  # classes are for training alone
        if scorer.needs.tokens:
            self._check_tokens(data, name)

    def _check_widths(self, data: EmbeddingSet, name: str) -> None:
        where, dims = data.root or data.name, self.stack.dims
        if (dims is None) != data.aligned:
            kinds = ("embeddings of one space", "features of two kinds")
            own, found = kinds if dims is None else kinds[::-1]
            raise UserError(
                f"{name}: was trained on {own}, {where} holds {found}. Name an embedding set of its own kind."
            )
        if dims is None:
            takes, holds = str(self.dim), str(data.dim)
        else:
            ways = data.dims[::-1] if self.facts["direction"] == "t2i" else data.dims
            takes, holds = (" and ".join(map(str, pair)) for pair in (dims, ways))
        if takes != holds:
            raise UserError(
                f"{name}: takes embeddings {takes} wide, those of {where} are {holds} wide. Name an embedding "
                "set of the encoder it was trained with."
            )

    def _check_tokens(self, data: EmbeddingSet, name: str) -> None:
        where, own, other = data.root or data.name, self.facts.get("tokens"), data.whole.meta.get("tokens")
        path = kind_of(own).get("path") or "features"
        remedy = f"Make them with `rank-xmodal embed ... --tokens {path}`, or name a set that has them."
        if not isinstance(other, dict):
            raise UserError(f"{name}: reads words and cells, and {where} holds none. {remedy}")
        if found := differing(own, other):
            raise UserError(
                f"{name}: was trained on other tokens than {where} holds ({found}): its scores would mean nothing. "
                f"{remedy}"
            )

    def index(
        self,
        embeddings: np.ndarray,
        ids: Sequence[Any] | np.ndarray | None = None,
        *,
        first_stage: FirstStage | Space = "clip",
        own: sp.csr_matrix | None = None,
        tokens: TokenTable | None = None,
        content: Sequence[str] | None = None,
    ) -> Index:
        """Prepare a corpus for searching.

        Parameters
        ----------
        embeddings : ndarray (n, dim), any float; scaled to length 1 where they aren't
            Where images and texts share no space, features of the candidates' kind, taken as they are.
        ids : sequence of n, by default 0 .. n - 1
        first_stage : "clip", "own" or a Space
            What finds the candidates that are put in order: CLIP's cosine, or that of the ranker's own space where it
            has one, as a projection does; or any other space, such as a `retrieval.quantisers.Quantiser`. Where images
            and texts share no space, "clip" is "own".
        own : csr_matrix (n, queries of the bank) or None
            Which queries of the bank ask for which embeddings, where the corpus holds training items: see
            `rank_xmodal.retrieval.query_bank.own_queries`.
        tokens : TokenTable of n, or None
            Their cells (t2i) or words (i2t), exactly where the scorer reads tokens.
        content : sequence of n str, or None
            Their image files (t2i) or captions (i2t), exactly where the scorer looks at them.

        Raises
        ------
        ValueError
            If the shape is wrong, a row is zero or not finite, the ids are not one for each, the first stage is unknown
            or the ranker has no space of its own, or tokens or content are not what the scorer takes.
        """
        dims = self.stack.dims
        if dims is None:
            candidates = normalised(embeddings, self.dim, "embeddings")
        else:
            candidates = as_they_are(embeddings, dims[1], "embeddings")
            first_stage = "own" if first_stage == "clip" else first_stage
        names = np.arange(len(candidates)) if ids is None else np.asarray(ids)
        if names.shape != (len(candidates),):
            raise ValueError(f"ids of shape {names.shape} for {len(candidates)} embeddings: give one id for each.")
        if isinstance(first_stage, str) and first_stage not in ("clip", "own"):
            raise ValueError(f"first_stage={first_stage!r}: name 'clip' or 'own', or give a space.")
        space = None if isinstance(first_stage, str) else first_stage
        if first_stage == "own":
            space = self.stack.own_space
            if space is None:
                raise ValueError(f"first_stage='own': {self.stack.scorer.label} has no space of its own; use 'clip'.")
        scorer, direction = self.stack.scorer, self.facts.get("direction")
        told = kind_of(self.facts.get("tokens"))
        widths = [told.get("text_width"), told.get("image_width")]  # of the asking side and of the other
        asking, other = widths if direction == "t2i" else widths[::-1]
        count, what, label = len(candidates), "embeddings", scorer.label
        tokens = checked_tokens(tokens, scorer.needs.tokens, count, other, what, label)
        given = checked_content(content, scorer.needs.content, count, direction == "t2i", what, label)
        look = None if given is None else Content(check_direction(str(direction)), [], given)
        return Index.of(self.stack, candidates, names, self.device, space, self.calibration, own, tokens, asking, look)
