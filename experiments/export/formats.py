"""A run's rankings and lists in the formats of other tools: TREC's for evaluation, libsvm's for learning to rank.

TREC (trec_eval, pytrec_eval, ir_measures, ranx): run.txt and clip.txt hold the reordered and the first stage's lists,
qrels.txt every relevant candidate of the gallery. Where images and texts share no space there is no CLIP, and
chance.txt holds a random order of the same lists instead. The tools' measures are ours under other names: Success@K is
R@K, RR is MRR, R@K is recall@K and, while every grade is 1, nDCG@10 is NDCG@10 (of higher grades, trec_eval's gain is
the grade itself, ours 2^grade - 1). Of tied scores trec_eval puts the last id first, our metrics the worst case.

libsvm (allRank, scikit-learn): lists.txt holds the first stage's lists, a line a candidate, with the features
[image; text] of the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from experiments.results.evaluate import opened, ranked
from experiments.results.result import row_label
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet, check_direction
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.judging import RANKER
from rank_xmodal.files import replacing
from rank_xmodal.retrieval.gallery import RankedGallery
from rank_xmodal.scorers.chance import Chance
from rank_xmodal.scorers.stack import rows_of, score_rows

_SAMPLE = 64  # embeddings a side that the size is estimated from


def escape_id(text: str) -> str:
    """Return an id as one word, and different ids as different words.

    "%" and every character that is white space or not printable become %XX, one for each byte of their UTF-8, as in a
    URL; an empty id becomes "%", which nothing else becomes. `urllib.parse.unquote` undoes all but the latter.
    """
    if not text:
        return "%"
    return "".join(
        sign
        if sign.isprintable() and sign not in " %"
        else "".join(f"%{byte:02X}" for byte in sign.encode("utf-8", "surrogatepass"))
        for sign in text
    )


def export_trec(
    run: Path,
    data: EmbeddingSet,
    split: str,
    out: Path,
    *,
    depth: int | None = None,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Write run.txt, clip.txt and qrels.txt into the folder `out`, each whole or not at all, and return their paths.

    Where the sides are not aligned it is chance.txt instead of clip.txt.

    Parameters
    ----------
    run : Path
        Folder of a trained ranker.
    data : EmbeddingSet
        Of the same encoder.
    split : str
    out : Path
        Other files in it stay.
    depth : int or None
        Length of the first stage's lists.
    device : str
    say : callable
        Told if the ranker was trained on the split, and if a random order is one of a part of the gallery.

    Raises
    ------
    UserError
        If the run is not whole or doesn't fit the data, the split is empty, or a score is not finite.
    """
    reranker = opened(run, data, split, device=device, say=say)
    gallery = ranked(reranker, data, split, depth=depth)
    rows = rows_of(reranker.stack, data)
    first = next(iter(rows))  # what the run is held against
    found = score_rows({first: rows[first], RANKER: rows[RANKER]}, data, gallery.lists, reranker.device)
    scores = found[RANKER].numpy()
    if not np.isfinite(scores).all():
        row = int(gallery.lists.query[np.flatnonzero(~np.isfinite(scores).all(axis=1))[0]])
        raise UserError(f"{run}: gives query row {row} a score that is not finite, which has no rank. Train again.")
    paths = [out / "run.txt", out / f"{first}.txt", out / "qrels.txt"]
    if first == Chance.name and gallery.lists.length < gallery.size:
        say(
            f"{paths[1]}: a random order of the top {gallery.lists.length} of {gallery.size:,} that were found by "
            f"{row_label(gallery.lists.info['first_stage'])}, better than one of all. --depth {gallery.size} takes all."
        )
    _write(paths[0], _ranked(data, gallery, scores, escape_id(Path(run).resolve().name)))
    _write(paths[1], _ranked(data, gallery, found[first].numpy(), row_label(first).replace(" ", "-")))
    _write(paths[2], _judged(data, gallery, split))
    return paths


def export_libsvm(
    run: Path,
    data: EmbeddingSet,
    split: str,
    out: Path,
    *,
    depth: int | None = None,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Write lists.txt into the folder `out`, whole or not at all, and return its path in a list.

    A line: `grade qid:N 1:v ... 2d:v # query_id candidate_id`, N being the query's row in the embedding set, the
    features 1 to d the image's embedding and d + 1 to 2d the text's; lists by rising N and each by falling cosine. The
    numbers have nine digits: read as float32 they are those that the ranker sees. Where the sides are not aligned a
    text has its own width, and lists are as the run's own first stage has them.

    Parameters, errors
    ------------------
    As of `export_trec`; `say` is told the size before anything is written.
    """
    gallery = ranked(opened(run, data, split, device=device, say=say), data, split, depth=depth)
    sample = [
        np.asarray(emb[np.unique(rows)[:_SAMPLE]]).astype(np.float32)
        for emb, rows in (
            (data.queries(_direction(gallery)), gallery.lists.query),
            (data.candidates(_direction(gallery)), gallery.lists.candidates.reshape(-1)),
        )
    ]
    # Behind the features stand the grade, the query and the two ids.
    line = 40 + sum(np.mean([len(_features(row, data.dim + 1)) for row in side]) for side in sample)
    path = out / "lists.txt"
    say(
        f"{path}: {len(gallery.lists):,} lists of {gallery.lists.length}, {sum(data.dims)} features: "
        f"about {_size(float(line * gallery.lists.labels.size))}"
    )
    _write(path, _lists(data, gallery))
    return [path]


def _direction(gallery: RankedGallery) -> Direction:
    return check_direction(gallery.lists.direction)


def _ids(data: EmbeddingSet, direction: Direction) -> tuple[list[str], list[str]]:
    """Return the escaped ids of all queries and of all candidates, by row."""

    def escaped(ids: pd.Series) -> list[str]:
        return [escape_id(str(one)) for one in ids]

    images, texts = escaped(data.images["image_id"]), escaped(data.texts["text_id"])
    return (texts, images) if direction == "t2i" else (images, texts)


def _ranked(data: EmbeddingSet, gallery: RankedGallery, scores: np.ndarray, tag: str) -> Iterator[str]:
    queries, candidates = _ids(data, _direction(gallery))
    lists = gallery.lists
    order = torch.from_numpy(scores).sort(dim=1, descending=True, stable=True).indices.numpy()
    for query, places, rows, own in zip(lists.query, order, lists.candidates, scores, strict=True):
        for rank, place in enumerate(places, start=1):
            yield f"{queries[query]} Q0 {candidates[rows[place]]} {rank} {own[place]:.9g} {tag}\n"


def _judged(data: EmbeddingSet, gallery: RankedGallery, split: str) -> Iterator[str]:
    direction = _direction(gallery)
    queries, candidates = _ids(data, direction)
    members = np.zeros(len(candidates), dtype=bool)
    members[data.candidate_rows(direction, split)] = True
    matrix = data.relevance_matrix(direction)
    for query in gallery.lists.query:
        part = slice(matrix.indptr[query], matrix.indptr[query + 1])
        for row, grade in zip(matrix.indices[part], matrix.data[part], strict=True):
            if members[row]:
                yield f"{queries[query]} 0 {candidates[row]} {grade}\n"


def _features(embedding: np.ndarray, first: int) -> str:
    return " ".join(f"{place}:{value:.9g}" for place, value in enumerate(embedding.tolist(), start=first))


def _lists(data: EmbeddingSet, gallery: RankedGallery) -> Iterator[str]:
    direction = _direction(gallery)
    query_ids, candidate_ids = _ids(data, direction)
    query_emb, candidate_emb = data.queries(direction), data.candidates(direction)
    images_first = direction == "i2t"  # whichever asks, the image's features come first
    known: dict[int, str] = {}  # a candidate stands in many lists; its numbers are written out once
    lists = gallery.lists
    for query, rows, grades in zip(lists.query.tolist(), lists.candidates.tolist(), lists.labels.tolist(), strict=True):
        asked = _features(query_emb[query].astype(np.float32), 1 if images_first else data.dim + 1)
        for row, grade in zip(rows, grades, strict=True):
            if row not in known:
                known[row] = _features(candidate_emb[row].astype(np.float32), data.dim + 1 if images_first else 1)
            pair = f"{asked} {known[row]}" if images_first else f"{known[row]} {asked}"
            yield f"{grade} qid:{query} {pair} # {query_ids[query]} {candidate_ids[row]}\n"


def _write(path: Path, lines: Iterator[str]) -> None:
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="\n") as handle:
        handle.writelines(lines)


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
