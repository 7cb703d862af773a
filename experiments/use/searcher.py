"""A corpus that is ready to be asked by captions or images: what `search` and `serve` stand on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from experiments.use.queries import Queries, QueryEncoder
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet, check_direction
from rank_xmodal.data.image_files import image_files
from rank_xmodal.errors import UserError
from rank_xmodal.lists.content import Content
from rank_xmodal.lists.list_tokens import tables_of
from rank_xmodal.retrieval.gallery import DEPTH
from rank_xmodal.retrieval.query_bank import own_queries
from rank_xmodal.scorers import Scorer
from rank_xmodal.use.cascade import Cascade
from rank_xmodal.use.exact_store import ExactStore
from rank_xmodal.use.given import whole
from rank_xmodal.use.hits import Hits
from rank_xmodal.use.index import Index
from rank_xmodal.use.index_folder import MANIFEST
from rank_xmodal.use.reranker import FirstStage, Reranker
from rank_xmodal.use.store import Where, check_where

CASCADE_DEPTH = 1_000
_COLUMNS = ("split", "labels")  # of a set, beside ids and what the items are
_READ = 100_000  # candidates of a database that are read for that
_FEW = 40  # values of a column that can be offered as a choice


@dataclass(frozen=True)
class Hit:
    """A candidate that was found.

    Attributes
    ----------
    rank, clip_rank : int or None
        From 1, in the ranker's order and in that of CLIP's cosine, of the candidates that were put in order; None of
        one that the last stage of a cascade didn't get.
    row : int
        Where in the corpus it stands.
    id : str or int
    item : str
        The image's path or the caption; "" where the corpus doesn't say it.
    score : float
        The ranker's, or the last stage's; comparable within a query.
    cosine : float
    probability : float or None
    """

    rank: int | None
    clip_rank: int | None
    row: int
    id: Any
    item: str
    score: float
    cosine: float
    probability: float | None


@dataclass(frozen=True)
class Answer:
    """What one query found.

    Attributes
    ----------
    hits : list of Hit
        The best k, best first.
    clip : list of Hit
        The best k by CLIP's cosine, for comparison.
    found : int
        Candidates that were put in order.
    encode_seconds, search_seconds : float
        Of the whole batch that it was in.
    """

    hits: list[Hit]
    clip: list[Hit]
    found: int
    encode_seconds: float
    search_seconds: float


def is_index(path: Path) -> bool:
    """Say whether a folder is an index, not a run."""
    return (path / MANIFEST).is_file()


class Searcher:
    """A ranker, its encoder and a corpus, warm.

    Attributes
    ----------
    name : str
        What messages call it: the folder of the run or of the index.
    direction : "t2i" or "i2t"
    index : Index
    encode : QueryEncoder
    """

    def __init__(
        self,
        name: str,
        index: Index,
        encode: QueryEncoder,
        cascade: Cascade | None = None,
    ) -> None:
        self.name, self.index, self.encode, self.cascade = name, index, encode, cascade
        self.direction: Direction = check_direction(str(index.facts.get("direction")))
        self.schema: pa.Schema = index.store.columns(np.empty(0, dtype=np.int64)).schema
        self.item = "path" if self.direction == "t2i" else "text"

    @classmethod
    def of_run(
        cls,
        run: Path,
        data: EmbeddingSet,
        *,
        reranker: Reranker | None = None,
        split: str | None = None,
        first_stage: FirstStage = "clip",
        last: Scorer | None = None,
        pretrained: str | None = None,
        device: str = "auto",
        say: Callable[[str], None] = print,
    ) -> Searcher:
        """Make an index of a set's candidates in memory.

        Parameters
        ----------
        run : Path
        data : EmbeddingSet
        reranker : Reranker or None
            The run, where it is loaded already.
        split : str or None
            Search this split only.
        first_stage : "clip" or "own"
        last : Scorer or None
            What puts the ranker's first few in order again.
        pretrained, device, say
            As `QueryEncoder`.

        Raises
        ------
        UserError
            If the run doesn't fit the set, the set has nothing to be found, or there is no space to search in.
        """
        reranker = reranker or Reranker.from_pretrained(run, device)
        direction: Direction = reranker.facts["direction"]
        reranker.check_made_for(data, str(run))
        if first_stage == "own" and reranker.stack.own_space is None:
            raise UserError(f"--first-stage own: {run} has no space of its own to search in. Use --first-stage clip.")
        scorer, count = reranker.stack.scorer, len(data.candidates(direction))
        rows = np.arange(count) if split is None else data.candidate_rows(direction, split)
        if not count:
            what = "captions" if direction == "i2t" else "images"
            raise UserError(f"{data.root or data.name}: holds no {what} to be found by {run} ({direction}).")
        content = None
        if scorer.needs.content or last is not None:
            everything = Content.of(data, direction).candidates
            content = Content(direction, [], [everything[row] for row in rows.tolist()])
        index = _index(reranker, data, rows, first_stage, content if scorer.needs.content else None)
        tokens = data.whole.meta["tokens"] if scorer.needs.tokens else None
        encode = QueryEncoder(
            data.meta, str(data.root or data.name), tokens, pretrained=pretrained, device=device, say=say
        )
        cascade = None if last is None or content is None else Cascade(index, last, content)
        return cls(str(run), index, encode, cascade)

    @classmethod
    def of_index(
        cls,
        folder: Path,
        *,
        pretrained: str | None = None,
        device: str = "auto",
        say: Callable[[str], None] = print,
    ) -> Searcher:
        """Open a folder that `rank-xmodal index` made.

        Raises
        ------
        UserError
            If it is no index, or something is missing or damaged.
        """
        index = Index.load(folder, device)
        facts = index.facts.get("encoder") or {}
        encode = QueryEncoder(facts, str(folder), pretrained=pretrained, device=device, say=say)
        return cls(str(folder), index, encode)

    def __len__(self) -> int:
        return len(self.index)

    def queries(self, given: Sequence[Any]) -> Queries:
        """Encode captions (t2i), or image files and Pillow images (i2t); see `QueryEncoder`."""
        return self.encode(given, self.direction == "i2t")

    def search(
        self, queries: Queries, k: int = 10, *, depth: int | None = None, where: Where | None = None
    ) -> list[Answer]:
        """Return what each query found.

        Parameters
        ----------
        queries : Queries
        k : int
            All of a smaller corpus.
        depth : int or None
            Candidates of the first stage that the ranker scores: 51, and 1,000 before a last stage; k where that is
            more.
        where : mapping or None
            As `Index.search` takes it; not with a last stage.

        Raises
        ------
        UserError
            If k or depth is no integer of 1 or more, or the filter can't be.
        """
        usual = DEPTH if self.cascade is None else CASCADE_DEPTH
        self.check_where(where or {})
        if where and self.cascade is not None:
            raise UserError("where: a search with a last stage can't be filtered. Leave one of them out.")
        started = time.perf_counter()
        try:
            k = whole("k", k)
            depth = max(whole("depth", usual if depth is None else depth), k)
            hits, last = self._hits(queries, k, depth, where or None)
        except ValueError as error:
            raise UserError(str(error)) from error
        taken = time.perf_counter() - started
        return [
            replace(self._answer(hits, last, place, k), encode_seconds=queries.seconds, search_seconds=taken)
            for place in range(len(queries))
        ]

    def _hits(self, queries: Queries, k: int, depth: int, where: Where | None) -> tuple[Hits, Hits | None]:
        """Return all candidates that the ranker put in order, and the last stage's best where there is one."""
        looks = self.index.content is not None
        if not looks and self.cascade is None:
            return self.index.search(queries.embeddings, depth, depth=depth, where=where, tokens=queries.tokens), None
        with queries.content() as content:
            hits = self.index.search(
                queries.embeddings, depth, depth=depth, where=where, tokens=queries.tokens,
                content=content if looks else None,
            )  # fmt: skip
            if self.cascade is None:
                return hits, None
            k = min(k, max(1, len(self)))
            return hits, self.cascade.search(queries.embeddings, content, k, depth=depth, tokens=queries.tokens)

    def _answer(self, hits: Hits, last: Hits | None, place: int, k: int) -> Answer:
        valid = np.flatnonzero(hits.rows[place] >= 0)  # a filter may have left fewer
        rows = hits.rows[place][valid].tolist()
        by_clip = np.lexsort((rows, -hits.cosine[place][valid])).tolist()
        clip_rank = {rows[at]: number for number, at in enumerate(by_clip, start=1)}
        every = [self._hit(hits, place, at, number, clip_rank) for number, at in enumerate(valid.tolist(), start=1)]
        best = every[:k]
        if last is not None:
            best = [self._hit(last, place, at, at + 1, clip_rank) for at in range(last.rows.shape[1])]
            known = {hit.row: hit for hit in best}
            every = [known.get(hit.row, replace(hit, rank=None)) for hit in every]
        best, first = self._named(best, [every[at] for at in by_clip[:k]])
        return Answer(best, first, len(rows), 0.0, 0.0)

    def _hit(self, hits: Hits, place: int, at: int, rank: int, clip_rank: dict[int, int]) -> Hit:
        row = int(hits.rows[place, at])
        sure = None if hits.probability is None else float(hits.probability[place, at])
        cosine = float(hits.cosine[place, at])
        return Hit(rank, clip_rank.get(row), row, None, "", float(hits.scores[place, at]), cosine, sure)

    def _named(self, *lists: list[Hit]) -> list[list[Hit]]:
        """Return hits with their ids and what they are."""
        rows = np.array(sorted({hit.row for hits in lists for hit in hits}), dtype=np.int64)
        told = self.index.store.columns(rows, [name for name in ("id", self.item) if name in self.schema.names])
        names = told["id"].to_pylist()
        items = told[self.item].to_pylist() if self.item in self.schema.names else [""] * len(rows)
        known = {row: (name, item or "") for row, name, item in zip(rows.tolist(), names, items, strict=True)}
        return [[replace(hit, id=known[hit.row][0], item=known[hit.row][1]) for hit in hits] for hits in lists]

    def image_file(self, row: int) -> str:
        """Return the absolute path of a candidate's image file, "" where there is none, no such row, or it is gone."""
        store = self.index.store
        if self.direction != "t2i" or "path" not in self.schema.names or not 0 <= row < store.next_row:
            return ""
        try:
            next(iter(store.fetch(np.array([[row]]), 1)))
        except ValueError:  # it was removed
            return ""
        path = store.columns(np.array([row]), ["path"])["path"][0].as_py()
        return os.path.join(os.path.abspath(self.name), path) if path else ""

    def check_where(self, where: Where) -> None:
        """Check a filter's columns and the kind of its values.

        Raises
        ------
        UserError
            If there is no such column, or a value is of another kind.
        """
        try:
            check_where(where, self.schema)
        except ValueError as error:
            raise UserError(str(error)) from error

    def where_of(self, assignments: Sequence[str]) -> dict[str, list[Any]]:
        """Return the filter that a user wrote as column=value, several values of a column one after another.

        Raises
        ------
        UserError
            If one is no assignment, or can't be a value of its column.
        """
        found: dict[str, list[Any]] = {}
        for written in assignments:
            name, sign, value = written.partition("=")
            if not sign or not name:
                raise UserError(f"--where {written!r}: write it as column=value.")
            if name in self.schema.names:
                try:
                    found.setdefault(name, []).append(pa.scalar(value).cast(self.schema.field(name).type).as_py())
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    kind = self.schema.field(name).type
                    raise UserError(f"--where {written!r}: {value!r} is no value of a column of {kind}.") from error
            else:
                found[name] = [value]  # said below, as of any other filter
        self.check_where(found)
        return found

    def choices(self) -> dict[str, list[Any]]:
        """Return the columns that have a few values, and these, for a list to choose from; none of a large database."""
        names, store = [name for name in self.schema.names if name not in ("id", self.item)], self.index.store
        if not names or not len(self):
            return {}
        if isinstance(store, ExactStore):
            table = store.columns(store.rows, names)
        elif len(self) <= _READ:
            table = pa.concat_tables([items.select(names) for _, items in store.parts()])
        else:
            return {}
        found = {name: pc.unique(table[name]).drop_null() for name in names}
        return {name: sorted(values.to_pylist()) for name, values in found.items() if 1 < len(values) <= _FEW}


def _index(
    reranker: Reranker, data: EmbeddingSet, rows: np.ndarray, first_stage: FirstStage, content: Content | None
) -> Index:
    """Return an index of some of a set's candidates, with their columns."""
    direction: Direction = reranker.facts["direction"]
    needs, tokens = reranker.stack.scorer.needs, None
    own = own_queries(data, direction, rows, reranker.stack.bank) if needs.neighbours else None
    if needs.tokens:
        tokens = tables_of(data)[0 if direction == "t2i" else 1]
        tokens = tokens if len(rows) == len(tokens) else tokens.select(torch.from_numpy(rows))
    table = data.texts if direction == "i2t" else data.images.assign(path=image_files(data, there=False))
    table = table.iloc[rows]
    name, item = ("image_id", "path") if direction == "t2i" else ("text_id", "text")
    return reranker.index(
        np.asarray(data.candidates(direction)[rows]),
        ids=table[name].to_numpy(dtype=object),
        metadata={column: table[column].tolist() for column in (item, *_COLUMNS) if column in table},
        first_stage=first_stage,
        own=own,
        tokens=tokens,
        content=None if content is None else content.candidates,
    )
