"""Search an embedding set or an index with a trained ranker by a caption or an image of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.use.searcher import Answer, Hit, Searcher, is_index
from rank_xmodal import scorers
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.scorers import Scorer
from rank_xmodal.use.cascade import check_last
from rank_xmodal.use.reranker import FirstStage, Reranker


def search(run: Path, data: EmbeddingSet | None, *, k: int = 10, **options: Any) -> list[dict[str, Any]]:
    """Return the k best candidates, best first: rank, CLIP's rank, id, path or caption, score, cosine, probability.

    Parameters and errors are those of `answer`.
    """
    searcher, found = answer(run, data, k=k, **options)
    return [as_dict(hit, searcher.item) for hit in found.hits]


def answer(
    run: Path,
    data: EmbeddingSet | None,
    *,
    text: str | None = None,
    image: Path | None = None,
    k: int = 10,
    split: str | None = None,
    where: Sequence[str] = (),
    first_stage: FirstStage = "clip",
    depth: int | None = None,
    then: str | None = None,
    then_set: Sequence[str] = (),
    pretrained: str | None = None,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> tuple[Searcher, Answer]:
    """Ask once, and return what was asked and its answer.

    `depth` candidates of the first stage are scored by the ranker: 51 by default, or 1,000 where a scorer `then`, with
    settings of its own, puts the ranker's first few in order again; see `rank_xmodal.use.cascade`.

    Parameters
    ----------
    run : Path
        A run, whose corpus is that of `data`; or an index, which has its own.
    data : EmbeddingSet or None
    text, image
        Exactly one of them.
    split : str or None
        Search this split only.
    where : sequence of str
        Filters, column=value.

    Raises
    ------
    UserError
        If not exactly one of text and image is given, the ranker ranks in the other direction, the encoder that made
        the embeddings can't be loaded, the ranker reads tokens and the set's are not those it was trained on or can't
        be made for the query, `then` can't come last, there is no set for a run, or an index is given what it can't
        take.
    """
    if (text is None) == (image is None):
        raise UserError("search: give either --text or --image.")
    if text is not None and not text.strip():
        raise UserError("--text is empty: say what to look for.")
    asked = "i2t" if text is None else "t2i"
    if is_index(run):
        chosen = {"--split": split, "--then": then, "--then-set": then_set, "--first-stage own": first_stage == "own"}
        for option, value in chosen.items():
            if value:
                remedy = "Use --where split=..." if option == "--split" else "Name a run and its set by --data"
                raise UserError(f"{option}: {run} is an index, which can't take it. {remedy}.")
        searcher = Searcher.of_index(run, pretrained=pretrained, device=device, say=say)
        _check_direction(run, searcher.direction, asked)
    else:
        reranker = Reranker.from_pretrained(run, device)
        _check_direction(run, str(reranker.facts["direction"]), asked)
        if data is None:
            raise UserError(f"{run}: is a run, which has no corpus of its own. Name an embedding set by --data.")
        reranker.check_made_for(data, str(run))
        searcher = Searcher.of_run(
            run, data, reranker=reranker, split=split, first_stage=first_stage, last=_last(data, then, then_set),
            pretrained=pretrained, device=device, say=say,
        )  # fmt: skip
    filters = searcher.where_of(where)
    queries = searcher.queries([text if text is not None else image])
    return searcher, searcher.search(queries, k, depth=depth, where=filters)[0]


def as_dict(hit: Hit, item: str) -> dict[str, Any]:
    """Return a hit for JSON; what it is is called path or text."""
    told = asdict(hit)
    return {name if name != "item" else item: value for name, value in told.items() if name != "row"}


def report(searcher: Searcher, found: Answer, *, text: str | None, image: Path | None) -> dict[str, Any]:
    """Return what `search --json` writes."""
    asked = {"text": text} if image is None else {"image": str(image)}
    return {
        "run": searcher.name,
        "direction": searcher.direction,
        "query": asked,
        "found": found.found,
        "hits": [as_dict(hit, searcher.item) for hit in found.hits],
        "clip": [as_dict(hit, searcher.item) for hit in found.clip],
        "seconds": {"encode": found.encode_seconds, "search": found.search_seconds},
    }


def _check_direction(run: Path, direction: str, asked: str) -> None:
    if direction != asked:
        asks = "texts" if direction == "t2i" else "images"
        raise UserError(
            f"{run}: was trained for {direction}, it is asked with {asks}. Name a run of the other direction."
        )


def _last(data: EmbeddingSet, name: str | None, assignments: Sequence[str]) -> Scorer | None:
    """Return the scorer of the last stage."""
    if name is None:
        if assignments:
            raise UserError(f"--then-set {assignments[0]}: is a setting of a last stage. Name that by --then.")
        return None
    try:
        settings = scorers.read(None, list(assignments), {"scorer": name})
        last = scorers.class_of(settings.scorer)(settings)
        check_last(last)
    except UserError as error:
        raise UserError(f"--then {name}: {error}") from error
    last.needs.check(last.name, data)
    return last
