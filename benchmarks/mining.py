"""Exact top-50 mining, 145,000 captions against 29,000 images and back, d = 512, on a tenth of the queries.

The work is proportional to the queries; all candidates are there. What is compared returns the same ids (checked).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.corpus import embedding_set
from benchmarks.measure import Row, alternate, matmul_rate, row
from data_prep.mining.miner import mine
from rank_xmodal.data.candidate_lists import CandidateLists
from rank_xmodal.data.embedding_set import DIRECTIONS, Direction, EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.retrieval.exact import precisions, top_candidates
from rank_xmodal.torchvision_ops import make_importable

IMAGES, CAPTIONS, SHARE, K = 29_000, 5, 10, 51
OTHER_WIDTHS = (256, 768, 1_024)
_CHECKED = 1_024  # rows of the peer's whose ids are compared with ours
Pairs = list[tuple[float, float]]


def rows() -> Iterator[Row]:
    """Compare with the bare product, with faiss and with sentence-transformers."""
    try:
        import datasets  # noqa: F401
        import faiss
    except ImportError as error:
        raise UserError(f"{error.name} is missing: run `make bench`, or pip install '.[bench]'.") from error
    faiss.omp_set_num_threads(torch.get_num_threads())
    data = embedding_set(IMAGES, captions=CAPTIONS)
    against: dict[str, list[Pairs]] = {"product": [], "faiss": [], "sentence": []}
    for direction in DIRECTIONS:
        part = first_queries(data, direction, len(data.queries(direction)) // SHARE)
        queries, candidates = part.queries(direction), part.candidates(direction)
        q, c = (np.asarray(x, dtype=np.float32) for x in (queries, candidates))
        search = partial(faiss.knn, q, c, K, metric=faiss.METRIC_INNER_PRODUCT)
        ours = partial(top_candidates, queries, candidates, K)
        _check_same(ours()[0], np.asarray(search()[1]), "faiss")
        against["faiss"].append(alternate(ours, search))
        against["product"].append(alternate(ours, _product(torch.from_numpy(q), torch.from_numpy(c))))
        against["sentence"].append(alternate(*_both(data, direction)))
    both = {
        name: [(a[0] + b[0], a[1] + b[1]) for a, b in zip(*measured, strict=True)] for name, measured in against.items()
    }
    work = f"mining {CAPTIONS * IMAGES:,} x {IMAGES:,}, both directions, 1/{SHARE} of the queries"
    fastest = precisions(torch.device("cpu"))[0]
    # Both directions have as many pairs.
    products = 2 * 2 * (CAPTIONS * IMAGES // SHARE) * IMAGES * data.dim
    limit = products / matmul_rate(fastest)
    yield row(work, "sentence-transformers mine_hard_negatives", both["sentence"], 5.0, limit=limit)
    yield row(work, "faiss.knn", both["faiss"], 1.5 if fastest is torch.bfloat16 else 1.0, limit=limit)
    yield row(work, "the bare float32 product", both["product"], 1 / 1.5, limit=limit)
    del data
    for dim in OTHER_WIDTHS:
        data = embedding_set(IMAGES, captions=CAPTIONS, dim=dim)
        ways = [alternate(*_both(data, direction), repeats=3) for direction in DIRECTIONS]
        pairs = [(a[0] + b[0], a[1] + b[1]) for a, b in zip(*ways, strict=True)]
        limit = products / 512 * dim / matmul_rate(fastest)
        yield row(f"{work}, d = {dim:,}", "sentence-transformers mine_hard_negatives", pairs, None, limit=limit)


def _both(data: EmbeddingSet, direction: Direction) -> tuple[Callable[[], CandidateLists], Callable[[], np.ndarray]]:
    """Return our mining of the first queries, and sentence-transformers', checked for the same negatives."""
    part = first_queries(data, direction, len(data.queries(direction)) // SHARE)
    theirs = _sentence_transformers(part, direction)
    lists = partial(mine, part, direction, "train", negatives=K - 1, pool="all", protocol="clean", seed=0)
    mined, found = lists(), theirs()
    asked = np.searchsorted(mined.query, found[:, 0])
    negatives = [mined.candidates[place][mined.labels[place] == 0] for place in asked]
    _check_same(np.stack(negatives), found[:, 1:], "sentence-transformers")
    return lists, theirs


def first_queries(data: EmbeddingSet, direction: Direction, count: int) -> EmbeddingSet:
    """Return the set with its first queries alone, and all candidates."""
    side = "text" if direction == "t2i" else "image"
    kept = data.relevance[data.relevance[side] < count].reset_index(drop=True)
    if direction == "t2i":
        return dataclasses.replace(
            data, text_emb=data.text_emb[:count], texts=data.texts[:count], relevance=kept, meta={**data.meta}
        )
    return dataclasses.replace(
        data, image_emb=data.image_emb[:count], images=data.images[:count], relevance=kept, meta={**data.meta}
    )


def _product(queries: torch.Tensor, candidates: torch.Tensor) -> Callable[[], object]:
    """Return the product of all with all in float32, a block of queries at a time, into the same memory."""
    out = torch.empty(512, len(candidates))

    def product() -> None:
        for block in queries.split(512):
            torch.mm(block, candidates.T, out=out[: len(block)])

    return product


class _Stored:
    """What `mine_hard_negatives` takes for a model: looks up embeddings that are there already."""

    device = torch.device("cpu")

    def __init__(self, queries: np.ndarray, candidates: np.ndarray) -> None:
        self.queries, self.candidates = queries, candidates

    def encode_query(self, names: list[str], **_: Any) -> np.ndarray:
        return self.queries[[int(name[1:]) for name in names]]

    def encode_document(self, names: list[str], **_: Any) -> np.ndarray:
        return self.candidates[[int(name[1:]) for name in names]]

    def get_embedding_dimension(self) -> int:
        return self.queries.shape[1]

    @staticmethod
    def similarity(a: Any, b: Any) -> torch.Tensor:
        return torch.as_tensor(a) @ torch.as_tensor(b).T

    @staticmethod
    def similarity_pairwise(a: Any, b: Any) -> torch.Tensor:
        return (torch.as_tensor(a) * torch.as_tensor(b)).sum(dim=1)


def _sentence_transformers(data: EmbeddingSet, direction: Direction) -> Callable[[], np.ndarray]:
    """Return a call of `mine_hard_negatives` with its defaults; it returns some queries, each with its negatives."""
    make_importable()
    import datasets
    from sentence_transformers.util import mine_hard_negatives

    asked, found = ("text", "image") if direction == "t2i" else ("image", "text")
    model: Any = _Stored(
        *(np.asarray(x, dtype=np.float32) for x in (data.queries(direction), data.candidates(direction)))
    )
    pairs = datasets.Dataset.from_dict(
        {
            "anchor": [f"q{i}" for i in data.relevance[asked]],
            "positive": [f"c{i}" for i in data.relevance[found]],
        }
    )
    corpus = [f"c{i}" for i in range(len(data.candidates(direction)))]

    def call() -> np.ndarray:
        mined = mine_hard_negatives(
            pairs,
            model,
            corpus=corpus,
            num_negatives=K - 1,
            output_format="n-tuple",
            verbose=False,
        )
        # A query with several positives has as many rows, all with the same negatives.
        checked = mined[:_CHECKED]
        columns = [checked["anchor"], *(checked[f"negative_{i}"] for i in range(1, K))]
        rows = np.array([[int(name[1:]) for name in column] for column in columns]).T
        return rows[np.unique(rows[:, 0], return_index=True)[1]]

    return call


def _check_same(ours: np.ndarray, theirs: np.ndarray, who: str) -> None:
    """Check that the rows agree but for ties within rounding, of which there are few.

    Raises
    ------
    UserError
        If more than one in a thousand differ.
    """
    missing = np.mean([len(np.setdiff1d(a, b)) for a, b in zip(ours, theirs, strict=True)]) / ours.shape[1]
    if missing > 1e-3:
        raise UserError(f"mining: {100 * missing:.2f} % of the ids are not those of {who}: this would compare nothing.")
