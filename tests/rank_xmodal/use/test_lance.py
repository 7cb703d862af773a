"""A corpus in LanceDB's table finds what the exact one finds, and ours is a reranker of its own searches."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from rank_xmodal import scorers
from rank_xmodal.errors import UserError
from rank_xmodal.retrieval.exact import top_candidates
from rank_xmodal.scorers import Stack
from rank_xmodal.scorers.cosine import Cosine
from rank_xmodal.scorers.csls import CSLS
from rank_xmodal.scorers.stack import fit_stack
from rank_xmodal.use import lance_store
from rank_xmodal.use.index import Index
from rank_xmodal.use.reranker import Reranker

lancedb = pytest.importorskip("lancedb")
CPU = torch.device("cpu")


def unit(count, seed, dim=24):
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def csls():
    return Reranker(Stack(CSLS(), unit(30, 9)), {"direction": "t2i"}, CPU)


@pytest.fixture(params=["clip", "own", "without neighbours"])
def ranker(request, corpus):
    if request.param == "without neighbours":
        return Reranker(Stack(Cosine(), unit(30, 9)), {"direction": "t2i"}, CPU), "clip"
    if request.param == "clip":
        return csls(), "clip"
    stack = fit_stack(scorers.get("csls"), corpus.data, "t2i", base=scorers.get("cca", components=8), device=CPU)
    return Reranker(stack, {"direction": "t2i"}, CPU), "own"


def same(one, other):
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.rows, other.rows)
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one.cosine, other.cosine, rtol=1e-6)


def test_a_table_finds_what_the_exact_store_finds(ranker, tmp_path):
    reranker, stage = ranker
    embeddings, asked = unit(150, 0), unit(5, 1)
    names = [f"o'hara \\ {row}" for row in range(150)]
    metadata = {"split": ["train" if row % 3 else "te'st" for row in range(150)], "number": range(150)}
    exact = reranker.index(embeddings, ids=names, metadata=metadata, first_stage=stage)
    kept = exact.save(tmp_path / "index", store="lance")
    assert len(kept) == 150
    same(kept.search(asked, k=7), exact.search(asked, k=7))
    for where in ({"split": "te'st"}, {"number": [3, 5, 6], "split": ["train", "te'st"]}, {"number": 4}):
        same(kept.search(asked, k=7, where=where), exact.search(asked, k=7, where=where))
    assert kept.search(asked, where={"split": "x') OR (1=1"}).ids.shape[1] == 0
    rng = np.random.default_rng(0)
    rows = np.concatenate([np.stack([rng.permutation(150)[:12] for _ in range(5)]), np.full((5, 2), -1)], axis=1)
    same(kept.rank(asked, rows), exact.rank(asked, rows))
    for index in (exact, kept):
        index.add(
            unit(20, 4), [f"new {row}" for row in range(20)], metadata={"split": ["new"] * 20, "number": [0] * 20}
        )
        assert index.remove([names[0], names[77], "new 3"]) == 3
    opened = Index.load(tmp_path / "index")
    for index in (kept, opened):
        assert len(index) == 167
        same(index.search(asked, k=9, depth=60), exact.search(asked, k=9, depth=60))
        same(index.search(asked, k=9, where={"split": "new"}), exact.search(asked, k=9, where={"split": "new"}))
    for wrong, said in (
        (
            lambda: opened.add(unit(1, 5), ["new 4"], metadata={"split": ["x"], "number": [1]}),
            "'new 4' is in the index",
        ),
        (lambda: opened.remove([names[0]]), "is not in the index. Nothing was removed"),
        (lambda: opened.rank(asked, np.full((5, 1), 77)), "row 77: is not in the index, or was removed"),
        (lambda: opened.search(asked, where={"rx_row": 3}), "no such column; it has id, split, number"),
        (lambda: opened.search(asked, where={"number": object()}), "are no values of a column of int64"),
    ):
        with pytest.raises(ValueError, match=said):
            wrong()
    back = opened.save(tmp_path / "files")
    assert len(back) == 167
    np.testing.assert_array_equal(back.search(asked, k=9, depth=60).ids, exact.search(asked, k=9, depth=60).ids)


def test_a_large_table_is_looked_at_in_part_and_says_what_it_misses(tmp_path, monkeypatch):
    monkeypatch.setattr(lance_store, "_LARGE", 1_000)
    embeddings, asked = unit(3_000, 0), unit(40, 1)
    index = csls().index(embeddings).save(tmp_path / "index", store="lance")
    told = json.loads((tmp_path / "index" / "lance.json").read_text())
    assert told["recall"] >= lance_store.RECALL or told["probes"] == told["parts"]
    assert 1 <= told["probes"] <= told["parts"]
    top, _ = top_candidates(asked, embeddings, 51)
    found = np.concatenate([part.rows for part in index.store.find(asked, 51, None, 16)])
    recall = np.mean([len(np.intersect1d(a, b)) / 51 for a, b in zip(top, found, strict=True)])
    assert recall > 0.9
    for count, indexed in ((5, 3_000), (1_200, 4_205)):  # few are looked at one by one, of many the index is made anew
        first = index.store.next_row
        index.add(unit(count, count), ids=range(first, first + count))
        hits = Index.load(tmp_path / "index").search(unit(count, count)[:5], k=1)
        np.testing.assert_array_equal(hits.ids[:, 0], np.arange(first, first + 5))
        assert json.loads((tmp_path / "index" / "lance.json").read_text())["indexed"] == indexed


def test_a_writer_that_died_gives_no_row_twice(tmp_path, monkeypatch):
    index = csls().index(unit(30, 0)).save(tmp_path / "index", store="lance")
    monkeypatch.setattr(lance_store, "_rows", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        index.add(unit(5, 2), ids=range(100, 105))
    monkeypatch.undo()
    opened = Index.load(tmp_path / "index")
    assert len(opened) == 30
    opened.add(unit(5, 2), ids=range(100, 105))
    assert sorted(opened.search(unit(5, 2), k=1).rows[:, 0]) == list(range(35, 40))


def test_codes_have_no_table(tmp_path, corpus):
    stack = fit_stack(scorers.get("csls"), corpus.data, "t2i", base=scorers.get("itq", bits=16), device=CPU)
    index = Reranker(stack, {"direction": "t2i"}, CPU).index(unit(30, 0), first_stage="own")
    with pytest.raises(UserError, match="this first stage searches codes"):
        index.save(tmp_path / "index", store="lance")
    assert not (tmp_path / "index").exists()


class TestReranker:
    def table(self, path, embeddings):
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.astype(np.float32).ravel()), 24)
        rows = pa.table({"name": [f"photo {row}" for row in range(len(embeddings))], "vector": vectors})
        return lancedb.connect(str(path)).create_table("photos", rows)

    def test_a_search_of_lancedb_comes_in_our_order(self, tmp_path):
        from rank_xmodal.use.lance_reranker import LanceReranker

        embeddings, asked, known = unit(80, 0), unit(1, 1)[0], {"two dogs": unit(1, 1)[0]}

        class Encoder:
            def encode_texts(self, texts):
                return np.stack([known[text] for text in texts])

        ranker = Reranker(Stack(CSLS(), unit(30, 9)), {"direction": "t2i"}, CPU, Encoder())
        table = self.table(tmp_path, embeddings)
        search = table.search(asked.astype(np.float32)).distance_type("cosine").limit(20)
        found = search.rerank(LanceReranker(ranker), "two dogs").to_list()
        expected = ranker.index(embeddings).search(asked, k=20, depth=20)
        assert [hit["name"] for hit in found] == [f"photo {row}" for row in expected.rows]
        np.testing.assert_allclose([hit["_relevance_score"] for hit in found], expected.scores, rtol=1e-4, atol=1e-5)
        again = search.rerank(LanceReranker(ranker, query=torch.from_numpy(asked)), "whatever").to_list()
        assert [hit["name"] for hit in again] == [hit["name"] for hit in found]
        with pytest.raises(ValueError, match="the hits have no column 'embedding'; they have name, vector"):
            search.rerank(LanceReranker(ranker, vector="embedding"), "two dogs").to_list()
        assert search.where("name = 'none'").rerank(LanceReranker(ranker), "two dogs").to_list() == []
