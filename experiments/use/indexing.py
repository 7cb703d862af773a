"""An index on disk from an embedding set, and more candidates into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from data_prep.progress import progress_bar
from rank_xmodal.data.checks import LABELS
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.data.image_files import image_files
from rank_xmodal.errors import UserError
from rank_xmodal.files import read_json, sha256
from rank_xmodal.retrieval.query_bank import own_queries
from rank_xmodal.use import index_folder
from rank_xmodal.use.index import Index
from rank_xmodal.use.prepared import Prepared, checked_candidates, prepare
from rank_xmodal.use.reranker import FirstStage, Reranker
from rank_xmodal.use.store import item_table

_STEP = 16_384  # candidates prepared at a time


@dataclass(frozen=True)
class _Items:
    """Some candidates of a set, with what an index says of each."""

    data: EmbeddingSet
    direction: Direction
    rows: np.ndarray
    own: sp.csr_matrix | None

    @classmethod
    def of(cls, reranker: Reranker, data: EmbeddingSet, split: str | None) -> _Items:
        """Choose the candidates of a split, all if None.

        Raises
        ------
        UserError
            If there are none.
        """
        direction: Direction = reranker.facts["direction"]
        count = len(data.candidates(direction))
        rows = np.arange(count) if split is None else data.candidate_rows(direction, split)
        if not len(rows):
            what = "captions" if direction == "i2t" else "images"
            of = "" if split is None else f" in the split {split}"
            raise UserError(f"{data.root or data.name}: holds no {what}{of} to be found by {direction}.")
        own = (
            own_queries(data, direction, rows, reranker.stack.bank) if reranker.stack.scorer.needs.neighbours else None
        )
        return cls(data, direction, rows, own)

    def table(self, start: int, stop: int) -> pa.Table:
        """Return the ids and other columns of some of them."""
        rows = self.rows[start:stop]
        side, name = (self.data.images, "image_id") if self.direction == "t2i" else (self.data.texts, "text_id")
        table = side.iloc[rows]
        columns = {"split": table["split"].tolist()}
        if self.direction == "t2i":
            files = self.files
            columns["path"] = [files[row] for row in rows.tolist()]
        else:
            columns["text"] = table["text"].tolist()
        if self.data.labelled:
            columns["labels"] = table[LABELS].tolist()
        return item_table(table[name].to_numpy(dtype=object), columns)

    @cached_property
    def files(self) -> list[str]:
        """The image files of the whole set."""
        return image_files(self.data, there=False)

    def embeddings(self, start: int, stop: int) -> np.ndarray:
        """Return the embeddings of some of them."""
        return np.asarray(self.data.candidates(self.direction)[self.rows[start:stop]])

    def queries_of(self, start: int, stop: int) -> sp.csr_matrix | None:
        """Return which bank queries ask for some of them."""
        return None if self.own is None else self.own[start:stop]


def index_set(
    run: Path,
    data: EmbeddingSet,
    out: Path,
    *,
    store: Literal["exact", "lance"] = "exact",
    split: str | None = None,
    first_stage: FirstStage = "clip",
    overwrite: bool = False,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> Index:
    """Write an index of a set's candidates, and return it opened.

    Raises
    ------
    UserError
        If the ranker is of another encoder or reads more than embeddings, there is no candidate, `out` is there
        already, or it can't be written.
    """
    reranker = Reranker.from_pretrained(run, device)
    reranker.check_made_for(data, str(run))
    stack, needs = reranker.stack, reranker.stack.scorer.needs
    if needs.tokens or needs.content:
        raise UserError(f"{run}: {stack.scorer.label} reads more than embeddings: its index can't be kept. Use search.")
    space = stack.own_space if first_stage == "own" or stack.dims is not None else None
    if first_stage == "own" and space is None:
        raise UserError(f"--first-stage own: {run} has no space of its own to search in. Use --first-stage clip.")
    items = _Items.of(reranker, data, split)
    weights = sorted(reranker.facts["sha256"].items())
    source = {
        "ranker": sha256(repr(weights).encode()),
        "set": data.fingerprint,
        "split": split,
        "store": store,
        "first_stage": first_stage,
    }
    if out.exists() and not overwrite:
        known = read_json(out / index_folder.MANIFEST) if (out / index_folder.MANIFEST).is_file() else None
        if isinstance(known, dict) and known.get("source") == source:
            say(f"{out}: already holds this index; nothing to do")
            return Index.load(out, device)
        raise UserError(f"{out}: is there already. Name another folder, or say --overwrite to replace an index.")

    def parts() -> Iterator[tuple[Prepared, pa.Table]]:
        with progress_bar("candidates", len(items.rows), say=say) as advance:
            for start in range(0, len(items.rows), _STEP):
                stop = min(start + _STEP, len(items.rows))
                candidates = checked_candidates(stack, items.embeddings(start, stop))
                known = items.queries_of(start, stop)
                yield prepare(stack, space, candidates, known, reranker.device), items.table(start, stop)
                advance(stop - start)

    index_folder.write(out, store, stack, reranker.facts, space, parts(), source)
    return Index.load(out, device)


def add_set(
    path: Path, data: EmbeddingSet, *, split: str | None = None, device: str = "auto",
    say: Callable[[str], None] = print,
) -> tuple[Index, int]:  # fmt: skip
    """Add a set's candidates to an index, those that it has left out, and return it and how many were added.

    Raises
    ------
    UserError
        If the index' ranker is of another encoder, there is no candidate, or the index can't be written.
    """
    index = Index.load(path, device)
    reranker = Reranker(index.stack, index.facts, index.device)
    reranker.check_made_for(data, str(path))
    items, added = _Items.of(reranker, data, split), 0
    with progress_bar("candidates", len(items.rows), say=say) as advance:
        for start in range(0, len(items.rows), _STEP):
            stop = min(start + _STEP, len(items.rows))
            table = items.table(start, stop)
            names = table["id"].to_numpy(zero_copy_only=False)
            there = index.store.columns(index.store.rows_of(names), ["id"])["id"].to_pylist()
            new = ~np.isin(names, there)
            if new.any():
                some = table.filter(pa.array(new))
                known = items.queries_of(start, stop)
                try:
                    index.add(
                        items.embeddings(start, stop)[new],
                        some["id"].to_numpy(zero_copy_only=False),
                        metadata={name: some[name].to_pylist() for name in some.column_names[1:]},
                        own=None if known is None else known[np.flatnonzero(new)],
                    )
                except ValueError as error:
                    raise UserError(f"{path}: {error}") from error
                added += int(new.sum())
            advance(stop - start)
    return index, added


def ids_as_written(index: Index, written: Sequence[str]) -> list[Any]:
    """Return ids that a user wrote as the index has them, numbers perhaps; what can't be one stays as it is."""
    kind, found = index.store.columns(np.empty(0, dtype=np.int64)).schema.field("id").type, list[Any](written)
    if not pa.types.is_string(kind):
        for place, name in enumerate(written):
            with suppress(pa.ArrowInvalid):
                found[place] = pa.scalar(name).cast(kind).as_py()
    return found
