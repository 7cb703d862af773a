"""Queries that are answered together are answered as alone; an index that changes is followed."""

import datetime
import math
import os
import threading
import time

import numpy as np
import pytest

from experiments.serve.batching import Asked, Batcher
from experiments.serve.corpora import open_corpora
from experiments.serve.metrics import Metrics
from experiments.serve.thumbnails import Thumbnails
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.use.index import Index
from rank_xmodal.use.reranker import Reranker
from tests.experiments.serve.conftest import connected, make_index, quiet


def same(found, expected):
    assert [hit.id for hit in found.hits] == [hit.id for hit in expected.hits]
    assert [hit.clip_rank for hit in found.hits] == [hit.clip_rank for hit in expected.hits]
    np.testing.assert_allclose([hit.score for hit in found.hits], [hit.score for hit in expected.hits], atol=1e-3)
    assert [hit.id for hit in found.clip] == [hit.id for hit in expected.clip]


def test_a_batch_of_all_kinds_is_answered_as_one_by_one(corpora, place):
    batch = [
        Asked("t2i", "a red square", 3),
        Asked("i2t", place / "photos/1.png", 2),
        Asked("t2i", "a blue square", 40),
        Asked("t2i", "something green", 5, where={"split": "test"}),
        Asked("t2i", "something green", 2, depth=7),
        Asked("i2t", place / "photos/2.png", 48, where={"split": ["val", "test"]}),
    ]
    batcher = Batcher(corpora, Metrics())
    together = batcher.answer(batch)
    for asked, found in zip(batch, together, strict=True):
        same(found, batcher.answer([asked])[0])
    assert [len(found.hits) for found in together] == [3, 2, 40, 5, 2, 24]
    assert together[4].found == 7


def test_clients_at_once_get_what_each_gets_alone(corpora):
    texts = [f"a {colour} square {number}" for number in range(8) for colour in ("red", "green", "blue")]
    found = {}
    with connected(corpora) as client:
        alone = {text: client.post("/search", json={"text": text}).json() for text in texts}

        def one(text):
            found[text] = client.post("/search", json={"text": text}).json()

        threads = [threading.Thread(target=one, args=(text,)) for text in texts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for text in texts:
        ours, theirs = found[text]["hits"], alone[text]["hits"]
        np.testing.assert_allclose([hit["score"] for hit in ours], [hit["score"] for hit in theirs], atol=1e-3)
        assert len({hit["id"] for hit in ours} & {hit["id"] for hit in theirs}) >= 9  # the tenth may be a tie
    assert max(told["timings"]["batch"] for told in found.values()) > 1


def test_one_query_at_fault_leaves_the_others_their_answers(corpora):
    batcher = Batcher(corpora, Metrics(), wait=0.3)
    with connected(corpora) as client:
        jobs = [Asked("t2i", "a red square"), Asked("t2i", "a", where={"nowhere": 1}), Asked("t2i", "a blue square")]
        from experiments.serve.batching import _Job

        made = [_Job(asked, time.perf_counter()) for asked in jobs]
        for job in made:
            job.future.set_running_or_notify_cancel()
        batcher._finish(made)
        with pytest.raises(UserError, match="no such column"):
            made[1].future.result(5)
        assert len(made[0].future.result(5).answer.hits) == len(made[2].future.result(5).answer.hits) == 10
        assert client.get("/health").status_code == 200


def test_an_index_that_grows_is_searched_as_it_is_then(index):
    said = []
    corpora = open_corpora([index], None, device="cpu", say=said.append)
    with connected(corpora) as client:
        before = client.post("/search", json={"text": "a red square", "k": 1}).json()["hits"][0]
        opened = Index.load(index, "cpu")
        encoder = corpora["t2i"].searcher.encode.encoder
        same_text = encoder.encode_texts(["a red square"])
        opened.add(np.asarray(same_text), ids=["new"], metadata={"path": [""], "split": ["test"], "height": [1]})
        after = client.post("/search", json={"text": "a red square", "k": 1}).json()["hits"][0]
        assert before["id"] != "new"
        assert after["id"] == "new"
        assert after["cosine"] == pytest.approx(1, abs=1e-3)
        assert "image" not in after
        assert "rank_xmodal_index_reloads_total 1.0" in client.get("/metrics").text
        assert client.get("/runs").json()["runs"][0]["candidates"] == 49
        manifest = (index / "index.json").read_text()
        (index / "index.json").write_text("{")
        kept = client.post("/search", json={"text": "a red square", "k": 1})
        assert kept.json()["hits"][0]["id"] == "new", "what was served stays"
        assert said[-2].endswith("has changed, 49 candidates now")
        assert "has changed and can't be opened; the index of before stays" in said[-1]
        (index / "index.json").write_text(manifest)
        opened = Index.load(index, "cpu")
        opened.remove(["new", before["id"]])
        last = client.post("/search", json={"text": "a red square", "k": 1}).json()["hits"][0]
        assert last["id"] not in ("new", before["id"])
        assert client.get(before["image"]).status_code == 404, "it was removed"
        assert client.get(last["image"]).status_code == 200


def test_a_database_that_changes_is_searched_as_it_is_then(index, tmp_path):
    pytest.importorskip("lancedb")
    Index.load(index, "cpu").save(tmp_path / "lance", store="lance")
    corpora = open_corpora([tmp_path / "lance"], None, device="cpu", say=quiet)
    with connected(corpora) as client:
        ask = {"text": "a red square", "k": 48, "where": {"split": ["val", "test"]}}
        before = client.post("/search", json=ask).json()
        assert len(before["hits"]) == before["found"] == 24
        assert client.get("/runs").json()["runs"][0]["choices"] == {"split": ["test", "train", "val"]}
        best = before["hits"][0]
        assert client.get(best["image"]).status_code == 200
        Index.load(tmp_path / "lance", "cpu").remove([best["id"]])
        after = client.post("/search", json=ask).json()
        assert [hit["id"] for hit in after["hits"]] == [hit["id"] for hit in before["hits"][1:]]
        assert client.get(best["image"]).status_code == 404
        assert client.get(after["hits"][0]["image"]).status_code == 200


def test_columns_of_an_index_are_filters_of_their_kind(index):
    corpora = open_corpora([index], None, device="cpu", say=quiet)
    with connected(corpora) as client:
        answer = client.post("/search", json={"text": "a", "where": {"height": 48, "split": "val"}})
        assert len(answer.json()["hits"]) == 8
        assert client.post("/search", json={"text": "a", "where": {"height": 10**30}}).status_code == 400
        assert client.post("/search", json={"text": "a", "where": {"height": "high"}}).status_code == 400
        assert client.post("/search", json={"text": "a", "where": {"height": 5}}).json()["hits"] == []


def test_ids_and_columns_that_json_has_no_word_for_are_told_and_no_choices(place, tmp_path):
    data = EmbeddingSet.open(place / "set")
    images = np.asarray(data.candidates("t2i"))
    days = [datetime.date(2020 + row % 2, 1, 1) for row in range(len(images))]
    columns = {
        "day": days, "raw": [b"\xff", b"a"] * 24, "height": [math.nan, 2.0, 1.0] * 16, "one": [math.nan, 1.0] * 24,
        "wide": [True, False] * 24,
    }  # fmt: skip
    index = Reranker.from_pretrained(place / "t2i", "cpu").index
    index(images, ids=days, metadata=columns).save(tmp_path / "index")
    with connected(open_corpora([tmp_path / "index"], None, device="cpu", say=quiet)) as client:
        run = client.get("/runs").json()["runs"][0]
        assert run["choices"] == {"height": [1.0, 2.0], "wide": [False, True]}
        for name, values in run["choices"].items():
            for value in values:
                told = client.post("/search", json={"text": "a", "where": {name: value}}).json()
                assert told["found"] == columns[name].count(value)
        assert {hit["id"] for hit in told["hits"]} <= {"2020-01-01", "2021-01-01"}


def test_what_cannot_be_served_together_is_said(place, tmp_path):
    with pytest.raises(UserError, match=r"is a run, which has no corpus of its own. Name an embedding set by --data"):
        open_corpora([place / "t2i"], None, device="cpu", say=quiet)
    with pytest.raises(UserError, match="Name one of each direction"):
        open_corpora([place / "index", place / "index"], None, device="cpu", say=quiet)
    make_index(place, tmp_path / "captions", "i2t")
    both = open_corpora([place / "index", tmp_path / "captions"], None, device="cpu", say=quiet)
    assert set(both) == {"t2i", "i2t"}
    assert both["t2i"].searcher.encode.encoder is both["i2t"].searcher.encode.encoder


def test_what_is_no_file_has_no_picture(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for name in (tmp_path / "pipe.png", tmp_path, tmp_path / "nothing.png", "a\0b.png", "x" * 5_000):
        assert Thumbnails().get(str(name)) is None


def test_pictures_that_are_kept_are_bounded(place):
    files = [str(place / "photos" / f"{row}.png") for row in range(8)]
    size = len(Thumbnails().get(files[0]).jpeg)
    kept = Thumbnails(most=int(2.5 * size))
    for file in files:
        assert kept.get(file) == kept.get(file)
        assert kept.size <= 2.5 * size
    assert 1 <= len(kept._kept) <= 3
    assert kept.size == sum(map(len, kept._kept.values()))
