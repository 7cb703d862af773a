"""Codes that find the candidates and a ranker on top of them, by the command line, with classes and without."""

import dataclasses
import json

import numpy as np
import pytest

from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.retrieval.hamming_retriever import HammingRetriever
from rank_xmodal.scorers.projections.hash import Hash, HashSettings
from rank_xmodal.use.reranker import Reranker


class Quick(HashSettings):
    """Defaults for a second: what stands on codes takes them with their defaults."""

    epochs: int = 6
    hidden: int = 128


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(Hash, "Settings", Quick)


@pytest.fixture(scope="module")
def sets(place):
    """Return the small corpus, with its classes and without them."""
    data = EmbeddingSet.open(place / "data")
    images, texts = (table.drop(columns="labels") for table in (data.images, data.texts))
    bare = dataclasses.replace(data, images=images, texts=texts, meta={**data.meta, "name": "bare"})
    return {"labelled": data, "bare": bare.write(place / "bare")}


def used(run, sets, kind, tmp_path, capsys, *settings):
    """Train, evaluate and search with the own first stage; return the report and what was found."""
    data, out = sets[kind].root, tmp_path / kind
    values = [part for value in ("device=cpu", *settings) for part in ("--set", value)]
    run("train", "--data", data, "--direction", "t2i", *values, "--no-tracking", "--out", out)
    run("evaluate", out, "--data", data, "--first-stage", "own", "--json", tmp_path / "own.json")
    text = sets[kind].texts["text"].iloc[-1]
    capsys.readouterr()
    run("search", out, "--data", data, "--text", text, "--first-stage", "own", "-k", 4, "--split", "test")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(-1 <= float(line.split("cosine")[1].split()[0]) <= 1 for line in lines), "CLIP's, not that of codes"
    return json.loads((tmp_path / "own.json").read_text()), out


@pytest.mark.parametrize("kind", ["labelled", "bare"])
def test_a_ranker_on_codes(run, sets, quick, tmp_path, capsys, kind):
    report, out = used(run, sets, kind, tmp_path, capsys, "scorer=context_aware", "loss=listnet", "on=hash", "epochs=2")
    assert report["first_stage"] == "hash"
    assert report["ranker"]["R@1"] > 0.05, "chance is 0.005"
    assert ("labels" in report) == (kind == "labelled")
    reranker = Reranker.from_pretrained(out, "cpu")
    assert isinstance(reranker.stack.base, Hash)
    data = sets[kind]
    index = reranker.index(np.asarray(data.image_emb), first_stage="own")
    assert isinstance(index.store.retriever, HammingRetriever)
    assert index.store.retriever.codes.shape == (len(data.images), 8)


@pytest.mark.parametrize("objective", ["djsrh", "contrastive"])
def test_codes_alone_without_classes(run, sets, quick, tmp_path, capsys, objective):
    report, _ = used(run, sets, "bare", tmp_path, capsys, "scorer=hash", f"objective={objective}")
    assert report["first_stage"] == "hash"
    assert report["ranker"]["R@10"] > 0.1, "chance is 0.05"


def test_what_needs_classes_says_what_does_not(run, sets, tmp_path, capsys):
    run("train", "--data", sets["bare"].root, "--direction", "t2i", "--scorer", "hash", "--set", "objective=dcmh",
        "--no-tracking", "--out", tmp_path / "run", code=2)  # fmt: skip
    said = capsys.readouterr().err
    assert "has no classes, which scorer=hash needs" in said
    assert "objective that needs none, such as contrastive" in said
