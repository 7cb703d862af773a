"""A trained ranker in use: project the corpus once, then search it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
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
from rank_xmodal.use.encoding import Encoder, Sides, is_content
from rank_xmodal.use.exact_store import ExactStore
from rank_xmodal.use.given import as_array, as_names, checked_content, checked_ids, checked_tokens, differing, kind_of
from rank_xmodal.use.hits import Hits
from rank_xmodal.use.hub import fetched, is_repository, push
from rank_xmodal.use.index import Index
from rank_xmodal.use.prepared import checked_candidates, prepare
from rank_xmodal.use.store import item_table

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

    def __init__(
        self, stack: Stack, facts: dict[str, Any], device: torch.device, encoder: Encoder | None = None
    ) -> None:
        self.stack, self.facts, self.device = stack.to(device), facts, device
        self.calibration = Calibration.of(facts)
        self.sides = Sides(facts, device.type, encoder)
        self.card = ""  # the run's README.md

    @classmethod
    def from_pretrained(
        cls,
        path: Path | str,
        device: str = "auto",
        *,
        encoder: Encoder | None = None,
        revision: str | None = None,
    ) -> Reranker:
        """Load a run's folder, or a ranker of the Hugging Face Hub.

        Parameters
        ----------
        path : Path, or str
            The folder; or, where there is no such folder, "user/name" of a repository.
        device : str
        encoder : Encoder or None
            What makes embeddings of captions and images, where these are given; by default the frozen one of the
            training is loaded when it is first needed.
        revision : str or None
            Of a repository: a branch, tag or commit; the newest if None.

        Raises
        ------
        UserError
            If it holds no whole ranker, or can't be fetched.
        """
        folder = Path(path)
        if isinstance(path, str) and is_repository(path):
            folder = fetched(path, revision)
        found = cls(*load(folder), pick_device(device), encoder)
        with suppress(OSError, UnicodeDecodeError):
            found.card = (folder / "README.md").read_text(encoding="utf-8")
        return found

    def push_to_hub(self, name: str, *, licence: str = "mit", private: bool = False, token: str | None = None) -> str:
        """Upload the ranker with its query bank and card to the Hugging Face Hub, and return where it is.

        The query bank holds embeddings of training queries: whoever may read the repository has these.

        Parameters
        ----------
        name : str
            "user/name".
        licence : str
            As the Hub calls it.
        private : bool
        token : str or None
            By default that of `hf auth login`.

        Raises
        ------
        UserError
            If the name or the licence is none, or the upload fails.
        """
        return push(name, self.stack, self.facts, self.card, licence=licence, private=private, token=token)

    def __repr__(self) -> str:
        told = self.facts.get("encoder") or {}
        ways = {"t2i": "text to image", "i2t": "image to text"}
        parts = [
            self.stack.scorer.label,
            ways.get(str(self.facts.get("direction")), "direction unknown"),
            f"embeddings {self.dim} wide of {told.get('encoder') or 'an unknown encoder'}",
        ]
        return f"Reranker({', '.join(parts)})"

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
        embeddings: Any,
        ids: Sequence[Any] | np.ndarray | None = None,
        *,
        metadata: Mapping[str, Sequence[Any]] | None = None,
        first_stage: FirstStage | Space = "clip",
        own: sp.csr_matrix | None = None,
        tokens: TokenTable | None = None,
        content: Sequence[str] | None = None,
    ) -> Index:
        """Prepare a corpus for searching.

        Parameters
        ----------
        embeddings : ndarray or Tensor (n, dim), any float; scaled to length 1 where they aren't
            Where images and texts share no space, features of the candidates' kind, taken as they are.
        ids : sequence of n, by default 0 .. n - 1
            Numbers or strings.
        metadata : mapping or None
            Other columns, n numbers or strings each, that a search can filter by.
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
            If the shape is wrong, there is no row, or one that is zero or not finite, the ids are not one for each, the
            first stage is unknown or the ranker has no space of its own, or tokens or content are not what the scorer
            takes.
        """
        candidates = checked_candidates(self.stack, embeddings)
        if not len(candidates):
            raise ValueError(f"embeddings have shape {candidates.shape}: an index needs one candidate at least.")
        if self.stack.dims is not None:
            first_stage = "own" if first_stage == "clip" else first_stage
        items = item_table(checked_ids(ids, len(candidates)), metadata)
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
        store = ExactStore(space, prepare(self.stack, space, candidates, own, self.device), items)
        return Index(self.stack, store, self.device, self.facts, space, tokens, asking, look, self.sides)

    def rank(
        self,
        query: Any,
        candidates: Any,
        ids: Sequence[Any] | np.ndarray | None = None,
        k: int | None = None,
    ) -> Hits:
        """Put anyone's hits in order: those of a vector database, of another search, or a handful of files.

        For many queries over one corpus `index` is faster: what candidates alone decide is worked out once.

        Parameters
        ----------
        query : ndarray or Tensor (dim,), or (Q, dim) of several; or captions (t2i), image files or Pillow images (i2t)
            A single caption or image, or a list.
        candidates : ndarray or Tensor (L, dim), or (Q, L, dim) where each query has its own; or images or captions
            A list, of what is ranked.
        ids : sequence of L, by default 0 .. L - 1; (Q, L) where each query has its own
        k : int or None
            How many to return; all if None.

        Returns
        -------
        Hits
            Of arrays (k,), (Q, k) of several queries; `rows` are places among the query's candidates.

        Raises
        ------
        ValueError
            If shapes don't fit, k is no integer of 1 or more, a row is zero or not finite, an item is of the wrong
            side, or the scorer reads words and cells: these need an index.
        UserError
            If captions or images are given and the encoder can't be loaded, or an image can't be read.
        """
        if self.stack.scorer.needs.tokens:
            raise ValueError(f"{self.stack.scorer.label} reads words and cells: make an index with tokens, and search.")
        content = self.stack.scorer.needs.content
        asked, single = _several(query)
        offered = self.sides.candidates(candidates) if is_content(candidates) else as_array(candidates)
        asking, look = (list(map(str, asked)), list(map(str, candidates))) if content else (None, None)
        asked = np.atleast_2d(self.sides.queries(asked) if is_content(asked) else as_array(asked))
        if offered.ndim not in (2, 3) or (offered.ndim == 3 and len(offered) != len(asked)):
            raise ValueError(
                f"candidates have shape {offered.shape} for {len(asked)} queries: give (L, {self.dim}), or "
                f"(queries, L, {self.dim})."
            )
        length, own = offered.shape[-2], offered.ndim == 3
        shape = (len(asked), length) if own else (length,)
        names = np.broadcast_to(np.arange(length), shape) if ids is None else as_names(ids)
        if names.shape != shape:
            raise ValueError(f"ids of shape {names.shape} for candidates {shape}: give one id for each.")
        if not length or not len(asked):
            raise ValueError(f"{len(asked)} queries and {length} candidates: there is nothing to rank.")
        index = self.index(offered.reshape(-1, offered.shape[-1]), content=look)
        rows = np.arange(len(index)).reshape(-1, length)
        rows = rows if own else np.repeat(rows, len(asked), axis=0)
        found = index.rank(asked, rows, k, content=asking)
        places = found.rows % length
        chosen = np.take_along_axis(names, places, 1) if own else names[places]
        hits = replace(found, ids=chosen, rows=places)
        return hits.single() if single else hits


def _several(query: Any) -> tuple[Any, bool]:
    """Return queries, and whether it was a single one."""
    if is_content(query) and not isinstance(query, (list, tuple)):
        return [query], True
    return query, not is_content(query) and as_array(query).ndim == 1
