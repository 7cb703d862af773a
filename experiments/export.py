"""A run's rankings and lists in the formats of other tools: TREC's for evaluation, libsvm's for learning to rank.

TREC (trec_eval, pytrec_eval, ir_measures, ranx): run.txt and clip.txt hold the reordered and the first stage's lists,
qrels.txt every relevant candidate of the gallery. Their measures are ours under other names: Success@K is R@K, RR is
MRR, R@K is recall@K and, while every grade is 1, nDCG@10 is NDCG@10 (of higher grades, trec_eval's gain is the grade
itself, ours 2^grade - 1). Of tied scores trec_eval puts the last id first, our metrics the worst case.

libsvm (allRank, scikit-learn): lists.txt holds the first stage's lists, a line a candidate, with the features
[image; text] of the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from rank_xmodal.embedding_set import Direction, EmbeddingSet, check_direction
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation import DEPTH, FirstStage, first_stage, score_lists
from rank_xmodal.files import replacing
from rank_xmodal.list_tensors import ListTensors
from rank_xmodal.query_bank import neighbours
from rank_xmodal.reranker import Reranker

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
    depth: int = DEPTH,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Write run.txt, clip.txt and qrels.txt into the folder `out`, each whole or not at all, and return their paths.

    Parameters
    ----------
    run : Path
        Folder of a trained ranker.
    data : EmbeddingSet
        Of the same encoder.
    split : str
    out : Path
        Other files in it stay.
    depth : int
        Length of the first stage's lists.
    device : str
    say : callable
        Told if the ranker was trained on the split.

    Raises
    ------
    UserError
        If the run is not whole or doesn't fit the data, the split is empty, or a score is not finite.
    """
    reranker, stage = _open(run, data, split, depth, device)
    if split in reranker.facts.get("trained_on", ["train"]):
        say(f"{split}: the ranker was trained on these queries; its figures on them mean little.")
    near = neighbours(data.candidates(_direction(stage)), reranker.bank)
    tensors = ListTensors.gather(data, stage.lists, near, reranker.device, in_bank=False)
    scores = score_lists(reranker.model, tensors).numpy()
    if not np.isfinite(scores).all():
        row = int(stage.lists.query[np.flatnonzero(~np.isfinite(scores).all(axis=1))[0]])
        raise UserError(f"{run}: gives query row {row} a score that is not finite, which has no rank. Train again.")
    paths = [out / "run.txt", out / "clip.txt", out / "qrels.txt"]
    _write(paths[0], _ranked(data, stage, scores, escape_id(Path(run).resolve().name)))
    _write(paths[1], _ranked(data, stage, stage.lists.cosine, "CLIP"))
    _write(paths[2], _judged(data, stage, split))
    return paths


def export_libsvm(
    run: Path,
    data: EmbeddingSet,
    split: str,
    out: Path,
    *,
    depth: int = DEPTH,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Write lists.txt into the folder `out`, whole or not at all, and return its path in a list.

    A line: `grade qid:N 1:v ... 2d:v # query_id candidate_id`, N being the query's row in the embedding set, the
    features 1 to d the image's embedding and d + 1 to 2d the text's; lists by rising N and each by falling cosine. The
    numbers have nine digits: read as float32 they are those that the ranker sees.

    Parameters, errors
    ------------------
    As of `export_trec`; `say` is told the size before anything is written.
    """
    _, stage = _open(run, data, split, depth, device)
    sample = [
        np.asarray(emb[np.unique(rows)[:_SAMPLE]]).astype(np.float32)
        for emb, rows in (
            (data.queries(_direction(stage)), stage.lists.query),
            (data.candidates(_direction(stage)), stage.lists.candidates.reshape(-1)),
        )
    ]
    # Behind the features stand the grade, the query and the two ids.
    line = 40 + sum(np.mean([len(_features(row, data.dim + 1)) for row in side]) for side in sample)
    path = out / "lists.txt"
    say(
        f"{path}: {len(stage.lists):,} lists of {stage.lists.length}, {2 * data.dim} features: "
        f"about {_size(float(line * stage.lists.labels.size))}"
    )
    _write(path, _lists(data, stage))
    return [path]


def _open(run: Path, data: EmbeddingSet, split: str, depth: int, device: str) -> tuple[Reranker, FirstStage]:
    reranker = Reranker.from_pretrained(run, device)
    reranker.check_made_for(data, str(run))
    return reranker, first_stage(data, check_direction(reranker.facts["direction"]), split, depth)


def _direction(stage: FirstStage) -> Direction:
    return check_direction(stage.lists.direction)


def _ids(data: EmbeddingSet, direction: Direction) -> tuple[list[str], list[str]]:
    """Return the escaped ids of all queries and of all candidates, by row."""

    def escaped(ids: pd.Series) -> list[str]:
        return [escape_id(str(one)) for one in ids]

    images, texts = escaped(data.images["image_id"]), escaped(data.texts["text_id"])
    return (texts, images) if direction == "t2i" else (images, texts)


def _ranked(data: EmbeddingSet, stage: FirstStage, scores: np.ndarray, tag: str) -> Iterator[str]:
    queries, candidates = _ids(data, _direction(stage))
    lists = stage.lists
    order = torch.from_numpy(scores).sort(dim=1, descending=True, stable=True).indices.numpy()
    for query, places, rows, own in zip(lists.query, order, lists.candidates, scores, strict=True):
        for rank, place in enumerate(places, start=1):
            yield f"{queries[query]} Q0 {candidates[rows[place]]} {rank} {own[place]:.9g} {tag}\n"


def _judged(data: EmbeddingSet, stage: FirstStage, split: str) -> Iterator[str]:
    direction = _direction(stage)
    queries, candidates = _ids(data, direction)
    gallery = np.zeros(len(candidates), dtype=bool)
    gallery[data.candidate_rows(direction, split)] = True
    matrix = data.relevance_matrix(direction)
    for query in stage.lists.query:
        part = slice(matrix.indptr[query], matrix.indptr[query + 1])
        for row, grade in zip(matrix.indices[part], matrix.data[part], strict=True):
            if gallery[row]:
                yield f"{queries[query]} 0 {candidates[row]} {grade}\n"


def _features(embedding: np.ndarray, first: int) -> str:
    return " ".join(f"{place}:{value:.9g}" for place, value in enumerate(embedding.tolist(), start=first))


def _lists(data: EmbeddingSet, stage: FirstStage) -> Iterator[str]:
    direction = _direction(stage)
    query_ids, candidate_ids = _ids(data, direction)
    query_emb, candidate_emb = data.queries(direction), data.candidates(direction)
    images_first = direction == "i2t"  # whichever asks, the image's features come first
    known: dict[int, str] = {}  # a candidate stands in many lists; its numbers are written out once
    lists = stage.lists
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
