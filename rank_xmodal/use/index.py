"""A corpus ready to be searched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
import torch
from torch.nn.functional import pad

from rank_xmodal.devices import pick_device
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.calibration import Calibration
from rank_xmodal.lists.bags import TokenTable
from rank_xmodal.lists.content import Content
from rank_xmodal.lists.list_tokens import ListTokens
from rank_xmodal.retrieval.gallery import DEPTH
from rank_xmodal.retrieval.retriever import Space
from rank_xmodal.scorers.stack import Stack
from rank_xmodal.use.encoding import Sides, is_content
from rank_xmodal.use.given import as_array, checked_content, checked_ids, checked_tokens, once, whole
from rank_xmodal.use.hits import Hits
from rank_xmodal.use.index_folder import read, write
from rank_xmodal.use.normalise import as_they_are, normalised
from rank_xmodal.use.prepared import checked_candidates, prepare
from rank_xmodal.use.scoring import first_scores, scored
from rank_xmodal.use.store import Found, Store, Where, item_table, joined

BATCH = 64  # queries scored at a time


@dataclass(frozen=True)
class Index:
    """A corpus ready to be searched; made by `Reranker.index`, or opened from a folder by `Index.load`.

    Attributes
    ----------
    stack : Stack
    store : Store
        The candidates.
    device : torch.device
    facts : dict
        What the ranker's config.json says.
    space : Space or None
        Where the first stage searches; None for CLIP's own.
    tokens : TokenTable, or None
        The candidates', on the CPU, where the scorer reads tokens.
    query_width : int or None
        Width of the queries' tokens, where the ranker says it.
    content : Content or None
        The candidates', and no queries, where the scorer looks at them.
    sides : Sides or None
        What makes embeddings of captions and images; None for the encoder that the facts name.

    Example
    -------
    >>> index = reranker.index(embeddings, ids=names)    # doctest: +SKIP
    >>> index.save("corpus")                             # doctest: +SKIP
    >>> index = Index.load("corpus")                     # doctest: +SKIP
    >>> index.add(more, ids=other_names)                 # doctest: +SKIP
    >>> index.remove(["a.jpg"])                          # doctest: +SKIP
    1
    """

    stack: Stack
    store: Store
    device: torch.device
    facts: dict[str, Any] = field(default_factory=dict)
    space: Space | None = None
    tokens: TokenTable | None = None
    query_width: int | None = None
    content: Content | None = None
    sides: Sides | None = None

    def __len__(self) -> int:
        """Return how many candidates there are; removed ones don't count."""
        return len(self.store)

    def __repr__(self) -> str:
        asks = {"t2i": "text to image", "i2t": "image to text"}.get(str(self.facts.get("direction")), "")
        return f"Index({len(self):,} candidates, {self.stack.scorer.label}{', ' * bool(asks)}{asks})"

    @property
    def calibration(self) -> Calibration | None:
        """What turns scores into probabilities, where the ranker was calibrated."""
        return Calibration.of(self.facts)

    @torch.inference_mode()
    def search(
        self,
        queries: Any,
        k: int = 10,
        batch_size: int = BATCH,
        *,
        depth: int = DEPTH,
        where: Where | None = None,
        tokens: TokenTable | None = None,
        content: Sequence[str] | None = None,
    ) -> Hits:
        """Return the k best candidates of each query: the first stage's top `depth` (k where that is more), reordered.

        Parameters
        ----------
        queries : ndarray or Tensor (Q, dim), or (dim,) of a single one, any float on any device
            Or a caption, or a list of captions (t2i); an image file or Pillow image, or a list of these (i2t).
        k : int
            All of a smaller corpus.
        batch_size : int
            Queries scored at a time; fewer where `depth` is above 51.
        depth : int
            Candidates that the first stage finds; all of a smaller corpus.
        where : mapping or None
            Columns, and the value or list of values that a candidate must have: {"split": ["val", "test"]}.
        tokens : TokenTable of Q, or None
            The queries' words or cells, exactly where the scorer reads tokens.
        content : sequence of Q str, or None
            The queries' captions or image files, exactly where the scorer looks at them.

        Returns
        -------
        Hits
            Of arrays (Q, k); (k,) of a single query. Fewer than k where fewer pass the filter.

        Raises
        ------
        ValueError
            If k, batch_size or depth is no integer of 1 or more, the queries' shape is wrong, a filter names no column,
            or tokens or content are not what the scorer takes.
        """
        size = max(1, len(self))
        k = min(whole("k", k), size)
        depth = min(max(whole("depth", depth), k), size)
        asked, single = self._asked(queries)
        batch_size = max(whole("batch_size", batch_size) * DEPTH // max(depth, DEPTH), 1)
        found = self.store.find(asked, depth, where, batch_size)
        hits = self._ranked(asked, found, k, tokens, content)
        return hits.single() if single else hits

    @torch.inference_mode()
    def rank(
        self,
        queries: Any,
        rows: np.ndarray,
        k: int | None = None,
        *,
        tokens: TokenTable | None = None,
        content: Sequence[str] | None = None,
    ) -> Hits:
        """Put candidates in order that another first stage found, such as FAISS, by their rows in the corpus.

        Parameters
        ----------
        queries : ndarray or Tensor (Q, dim), or (dim,) of a single one
        rows : ndarray (Q, L), or (L,) of a single query, int; -1 for none, as FAISS pads
            What a query names again counts once; in its place -1 stands at the end.
        k : int or None
            How many to return; all if None.
        tokens, content
            As `search` takes them.

        Raises
        ------
        ValueError
            As `search`, or if rows are no integers of the index, or not of each query.
        """
        asked, single = self._asked(queries)
        rows = np.asarray(rows)
        rows = rows[None] if single and rows.ndim == 1 else rows
        if rows.ndim != 2 or len(rows) != len(asked) or rows.dtype.kind not in "iu":
            raise ValueError(f"rows of {rows.dtype} {rows.shape} for {len(asked)} queries: give integers (queries, L).")
        count = rows.shape[1] if k is None else min(whole("k", k), rows.shape[1])
        found = self.store.fetch(once(rows.astype(np.int64)), max(BATCH * DEPTH // max(rows.shape[1], DEPTH), 1))
        hits = self._ranked(asked, found, count, tokens, content)
        return hits.single() if single else hits

    def add(
        self,
        embeddings: Any,
        ids: Sequence[Any] | np.ndarray | None = None,
        *,
        metadata: Mapping[str, Sequence[Any]] | None = None,
        own: sp.csr_matrix | None = None,
    ) -> None:
        """Put more candidates into the corpus; of a folder, on the disk at once.

        Parameters
        ----------
        embeddings, ids, own, metadata
            As `Reranker.index` takes them: ids of the same kind, none of them there already, and the same columns. No
            embeddings at all change nothing.

        Raises
        ------
        ValueError
            As `Reranker.index`; or if an id is there already, or the scorer reads tokens or content.
        UserError
            If the folder can't be written, or another process writes to it.
        """
        if self.tokens is not None or self.content is not None:
            raise ValueError(f"{self.stack.scorer.label} reads more than embeddings: index the whole corpus anew.")
        candidates = checked_candidates(self.stack, embeddings)
        names = checked_ids(ids, len(candidates), first=self.store.next_row)
        if len(known := self.store.rows_of(names)):
            name = self.store.columns(known[:1], ["id"])["id"][0].as_py()
            raise ValueError(f"ids: {name!r} is in the index already. Remove it first, or leave it out.")
        items = item_table(names, metadata)
        columns = self.store.columns(np.empty(0, dtype=np.int64)).schema
        if set(items.column_names) != set(columns.names):
            ours, theirs = columns.names[1:], items.column_names[1:]
            raise ValueError(f"metadata has the columns {theirs}, the index {ours}: give the same.")
        items = items.select(columns.names)
        for name, kind in zip(columns.names, columns.types, strict=True):
            given = items.schema.field(name).type
            if given != kind and not pa.types.is_null(given):  # that is one of missing values alone
                raise ValueError(f"{name}: holds {given}, another kind than in the index, {kind}.")
        if len(candidates):
            self.store.add(prepare(self.stack, self.space, candidates, own, self.device), items.cast(columns))

    def remove(self, ids: Iterable[Any]) -> int:
        """Take candidates out by their ids, and return how many; the others keep their rows.

        Raises
        ------
        ValueError
            If one of them is not in the index; nothing is removed then.
        """
        if isinstance(ids, str):
            raise ValueError(f"ids={ids!r}: give a list of them, as [{ids!r}].")
        wanted = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        rows = self.store.rows_of(wanted)
        known = set(self.store.columns(rows, ["id"])["id"].to_pylist())
        for name in wanted:
            if name not in known:
                raise ValueError(f"ids: {name!r} is not in the index. Nothing was removed.")
        if len(rows):
            self.store.remove(rows)
        return len(rows)

    def save(self, path: Path | str, *, store: Literal["exact", "lance"] = "exact") -> Index:
        """Write the corpus and its ranker as a folder, whole or not at all, and return it opened from there.

        Parameters
        ----------
        path : Path
            The folder to be made; what stands there is replaced, if it is an index.
        store : "exact" or "lance"
            Files that are mapped and searched exactly, or a LanceDB table that is searched approximately.

        Raises
        ------
        UserError
            If it can't be written, another thing is there, or the index can't be kept: its first stage is a space of
            the user's own, or the scorer reads tokens or content.
        """
        label = self.stack.scorer.label
        if self.tokens is not None or self.content is not None:
            raise UserError(f"{label} reads more than embeddings: its index can't be kept. Make it from the set.")
        write(Path(path), store, self.stack, self.facts, self.space, self.store.parts())
        return Index.load(path, self.device.type)

    @classmethod
    def load(cls, path: Path | str, device: str = "auto", *, verify: bool = False) -> Index:
        """Open a folder that `save` made; a corpus in files stays there, memory-mapped.

        Parameters
        ----------
        path : Path
        device : str
            Where the ranker computes.
        verify : bool
            Compare all files with their checksums first; reads the whole corpus. LanceDB's table has none: whether it
            can be read is all that is known then.

        Raises
        ------
        UserError
            If it is no index, or something is missing or damaged.
        """
        stack, facts, store, space = read(Path(path), verify)
        chosen = pick_device(device)
        return cls(stack.to(chosen), store, chosen, facts, space)

    @cached_property
    def _sides(self) -> Sides:
        return self.sides or Sides(self.facts, self.device.type)

    def _asked(self, queries: Any) -> tuple[np.ndarray, bool]:
        """Return queries (Q, d), and whether a single one was given."""
        single = is_content(queries) and not isinstance(queries, (list, tuple))
        if is_content(queries):
            queries = self._sides.queries([queries] if single else queries)
        array, dims = as_array(queries), self.stack.dims
        single = single or array.ndim == 1
        array = array[None] if array.ndim == 1 else array
        if dims is None:
            return normalised(array, int(self.stack.bank.shape[1]), "queries"), single
        return as_they_are(array, dims[0], "queries"), single

    def _look(self, content: Sequence[str] | None, count: int) -> Content | None:
        """Return the corpus' content with that of `count` queries."""
        corpus, label = self.content, self.stack.scorer.label
        images = corpus is not None and corpus.direction == "i2t"
        given = checked_content(content, corpus is not None, count, images, "queries", label)
        return None if corpus is None or given is None else replace(corpus, queries=given)

    def _ranked(
        self,
        asked: np.ndarray,
        parts: Iterable[Found],
        k: int,
        tokens: TokenTable | None,
        content: Sequence[str] | None,
    ) -> Hits:
        """Return the k best of what was found for queries (Q, d), part after part."""
        scorer = self.stack.scorer
        words = checked_tokens(tokens, scorer.needs.tokens, len(asked), self.query_width, "queries", scorer.label)
        local = None if words is None or self.tokens is None else ListTokens(words, self.tokens)
        look = self._look(content, len(asked))
        if look is not None:
            parts = [joined(list(parts))]  # a scorer that looks at content makes its own batches
        done, start = [], 0
        for found in parts:
            stop = start + len(found.rows)
            cosine, base = first_scores(self.stack, self.space, asked[start:stop], found)
            scores = scored(self.stack, self.device, asked[start:stop], start, found, base, local, look)
            done.append((found.rows, cosine, scores, self._ids(found)))
            start = stop
        if not done:
            none = np.empty((0, k), dtype=np.float32)
            return Hits(np.empty((0, k), dtype=object), np.empty((0, k), dtype=np.int64), none, none)
        # An approximate first stage may find fewer for one query than for another.
        length = max(part[0].shape[1] for part in done)
        rows = np.concatenate([_widened(part[0], length, -1) for part in done])
        cosine = np.concatenate([_widened(part[1], length, -np.inf) for part in done])
        scores = torch.cat([pad(part[2], (0, length - part[2].shape[1]), value=-torch.inf) for part in done])
        ids = np.concatenate([_widened(part[3], length, None) for part in done])
        order = scores.sort(dim=1, descending=True, stable=True).indices[:, :k].numpy()
        calibration = self.calibration
        best = np.take_along_axis(rows, order, 1)
        chosen = np.take_along_axis(scores.numpy(), order, 1)
        probability = None if calibration is None else calibration.probability(scores, scores > -torch.inf).numpy()
        return Hits(
            np.take_along_axis(ids, order, 1),
            best,
            chosen,
            np.take_along_axis(cosine, order, 1),
            None if probability is None else np.take_along_axis(probability, order, 1),
        )

    def _ids(self, found: Found) -> np.ndarray:
        """Return the ids (Q, L) of what was found; None where there is no candidate."""
        names = found.ids
        if names is None:
            rows = np.zeros(len(found.part), dtype=np.int64)
            rows[found.place[found.place >= 0]] = found.rows[found.place >= 0]
            names = self.store.columns(rows, ["id"])["id"].to_numpy()
        if (found.place < 0).any():  # the last, which -1 names
            names = np.concatenate([names.astype(object), np.array([None], dtype=object)])
        return names[found.place]


def _widened(table: np.ndarray, length: int, none: Any) -> np.ndarray:
    """Return a table (Q, L) as (Q, length), with `none` where nothing is."""
    if table.shape[1] == length:
        return table
    wide = np.full((len(table), length), none, dtype=object if none is None else table.dtype)
    wide[:, : table.shape[1]] = table
    return wide
