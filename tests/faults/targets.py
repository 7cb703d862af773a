"""What is spoiled, who reads it, and what may come of it: the same figures, or a message of ours.

A reader returns a digest of all that decides figures. Where a table of the user's own is spoiled, another content is a
right content, too: `strict` is false then. Of our own JSON files it is not asked either that a figure changed by hand
be noticed; whatever is binary must be whole.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

Reader = Callable[[Path], str]


@dataclass(frozen=True)
class Target:
    """Files below `folder` of a template's work folder or of the inputs, spoiled one at a time; see the module.

    `count` is how often each kind of change is tried on each file.
    """

    start: str
    files: tuple[str, ...]
    read: Reader
    count: int
    strict: bool = True


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(part).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _array(values: Any) -> bytes:
    found = np.ascontiguousarray(values)
    return repr((found.shape, found.dtype.str)).encode() + found.tobytes()


def content(data: Any) -> str:
    """Return a digest of what of an embedding set decides figures."""
    tables = [list(data.images[c]) for c in ("image_id", "split")] + [
        list(data.texts[c]) for c in ("text_id", "text", "split")
    ]
    relevance = data.relevance[["image", "text", "grade"]].to_numpy()
    return _digest(_array(data.image_emb), _array(data.text_emb), _array(relevance.astype(np.int64)), *tables)


def read_set(work: Path) -> str:
    """Open the embedding set."""
    from rank_xmodal.data.embedding_set import EmbeddingSet

    return content(EmbeddingSet.open(work / "set"))


def read_lists(work: Path) -> str:
    """Read the candidate lists."""
    from rank_xmodal.data.candidate_lists import CandidateLists
    from rank_xmodal.data.embedding_set import EmbeddingSet

    lists = CandidateLists.read(work / "set/lists/t2i-train.parquet", EmbeddingSet.open(work / "set"))
    return _digest(*(_array(getattr(lists, name)) for name in ("query", "candidates", "labels", "cosine")))


def read_run(work: Path) -> str:
    """Load the run and search with it."""
    import torch

    from rank_xmodal.use.reranker import Reranker

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    reranker = Reranker.from_pretrained(work / "run", "cpu")
    found = reranker.index(rng.normal(size=(20, reranker.dim))).search(rng.normal(size=(5, reranker.dim)), k=10)
    return _digest(_array(found.ids), _array(found.scores), _array(found.cosine))


def read_index(work: Path) -> str:
    """Open the index, all its checksums compared, and search it."""
    from rank_xmodal.use.index import Index

    index = Index.load(work / "index", "cpu", verify=True)
    asked = np.random.default_rng(0).normal(size=(5, index.stack.bank.shape[1]))
    found = index.search(asked, k=5)
    columns = index.store.columns(found.rows.ravel())
    return _digest(_array(found.rows), _array(found.scores), *(columns[name].to_pylist() for name in ("id", "split")))


def read_tokens(work: Path) -> str:
    """Open the embedding set's words and cells."""
    from rank_xmodal.data.embedding_set import EmbeddingSet
    from rank_xmodal.data.tokens import Tokens

    data = EmbeddingSet.open(work / "set")
    tokens = Tokens.open(data)
    return _digest(content(data), *map(_array, (tokens.image, tokens.text, tokens.offsets)))


def read_head(work: Path) -> str:
    """Load the run of a head, and score the set's test lists with it."""
    import torch

    from rank_xmodal.data.embedding_set import EmbeddingSet
    from rank_xmodal.lists.scoring import score_lists
    from rank_xmodal.retrieval.gallery import rank_gallery
    from rank_xmodal.use.reranker import Reranker

    data, reranker = EmbeddingSet.open(work / "set"), Reranker.from_pretrained(work / "run", "cpu")
    lists = rank_gallery(data, "t2i", "test").lists
    scores = score_lists(reranker.stack.scorer, reranker.stack.tensors(data, lists, torch.device("cpu")))
    return _digest(_array(scores.numpy()))


def read_report(work: Path) -> str:
    """Read the run's figures, as compare does."""
    from experiments.study.compare import from_folders

    one = from_folders([work / "run"])[0]
    queries = "-" if one.queries is None else _digest(one.queries.to_csv())
    return f"{_digest(json.dumps(one.report, sort_keys=True))} {queries}"


def read_captions(work: Path, table: str = "C.csv") -> str:
    """Import the arrays with their captions."""
    from data_prep.importing import import_embeddings

    arrays = (work / "A.npy", work / "B.npy")
    return content(import_embeddings(*arrays, work / table, work / "set", overwrite=True, say=lambda line: None))


def read_mat(work: Path) -> str:
    """Import features and classes of a MATLAB file."""
    from data_prep.importing_mat import import_mat

    data = import_mat(work / "kinds.mat", work / "set", val=0.2, overwrite=True, say=lambda line: None)
    return _digest(content(data), *map(list, (data.images["labels"], data.texts["labels"])))


def read_codes(work: Path) -> str:
    """Load the run of a scorer by codes, and rank the set's test gallery with it."""
    from rank_xmodal.data.embedding_set import EmbeddingSet
    from rank_xmodal.scorers.stack import first_gallery
    from rank_xmodal.use.reranker import Reranker

    data, reranker = EmbeddingSet.open(work / "set"), Reranker.from_pretrained(work / "run", "cpu")
    lists = first_gallery(reranker.stack, data, "t2i", "test").lists
    return _digest(_array(lists.candidates), _array(lists.cosine))


def read_folder(work: Path) -> str:
    """Read a corpus of one's own."""
    from data_prep.datasets import load

    corpus = load("folder", work, say=lambda line: None)
    return _digest(corpus.images.to_csv(), corpus.texts.to_csv())


def read_karpathy(work: Path) -> str:
    """Read a corpus in Karpathy's layout."""
    from data_prep.datasets import load

    corpus = load("flickr30k", work, say=lambda line: None)
    return _digest(corpus.images.to_csv(), corpus.texts.to_csv())


def read_config(work: Path) -> str:
    """Read settings."""
    from rank_xmodal import scorers

    return _digest(scorers.read(work / "config.yaml", [], {}).model_dump(mode="json"))


def read_plan(work: Path) -> str:
    """Read a plan."""
    from experiments.study import plan

    return _digest(sorted(plan.read(work / "plan.yaml", []).trained))


TARGETS = {
    "set": Target("set", (
        "set/meta.json", "set/image_emb.npy", "set/text_emb.npy", "set/images.parquet", "set/texts.parquet",
        "set/relevance.parquet",
    ), read_set, 17),
    "lists": Target("lists", ("set/lists/t2i-train.parquet",), read_lists, 40),
    "run": Target("run", ("run/config.json", "run/model.safetensors", "run/query_bank.npy"), read_run, 20),
    "tokens": Target("set-tokens", (
        "set/meta.json", "set/image_tokens.npy", "set/text_tokens.npy", "set/text_offsets.npy",
    ), read_tokens, 17),
    "head": Target("run-head", ("run/config.json", "run/model.safetensors"), read_head, 20),
    "codes": Target("run-codes", ("run/config.json", "run/model.safetensors"), read_codes, 20),
    "index": Target("indexed", (
        "index/index.json", "index/embeddings.bin", "index/neighbours.bin", "index/projected.bin",
        "index/items-0.arrow",
    ), read_index, 17),
    "report": Target("run", ("run/test.parquet", "run/test.json", "run/config.json"), read_report, 14),
    "captions": Target("arrays", ("C.csv",), read_captions, 40, strict=False),
    "captions-parquet": Target(
        "arrays-parquet", ("C.parquet",), partial(read_captions, table="C.parquet"), 30, strict=False
    ),
    "arrays": Target("arrays", ("A.npy", "B.npy"), read_captions, 25, strict=False),
    "mat": Target("kinds", ("kinds.mat",), read_mat, 40, strict=False),
    "folder": Target("photos", ("captions.csv",), read_folder, 30, strict=False),
    "karpathy": Target("karpathy", ("dataset_flickr30k.json",), read_karpathy, 40, strict=False),
    "config": Target("texts", ("config.yaml",), read_config, 50, strict=False),
    "plan": Target("texts", ("plan.yaml",), read_plan, 50, strict=False),
}  # fmt: skip
