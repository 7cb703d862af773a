"""An index' folder that others write to, or that isn't what it was."""

import json
import shutil

import numpy as np
import pytest
import torch

from rank_xmodal.errors import UserError
from rank_xmodal.scorers import Stack
from rank_xmodal.scorers.cosine import Cosine
from rank_xmodal.scorers.csls import CSLS
from rank_xmodal.use import index_folder, lance_store
from rank_xmodal.use.index import Index
from rank_xmodal.use.reranker import Reranker

CPU = torch.device("cpu")


def unit(count, seed, dim=24):
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def ranker():
    return Reranker(Stack(CSLS(), unit(30, 9)), {"direction": "t2i"}, CPU)


def amid(monkeypatch, act):
    """Let `act` happen once, after a reader has read the manifest and before it reads the tables."""
    real, acts = index_folder.rankers.load, [act]

    def load(path):
        if acts:
            acts.pop()()
        return real(path)

    monkeypatch.setattr(index_folder.rankers, "load", load)


def test_who_opens_an_index_while_another_writes_has_what_counts_then(tmp_path, monkeypatch):
    path = tmp_path / "index"
    writer = ranker().index(unit(20, 0)).save(path)
    writer.remove([1])

    def write():
        writer.remove([2])  # the file that says what is gone is another one now
        for step in range(40):  # and so is that of the ids
            writer.add(unit(1, step))

    amid(monkeypatch, write)
    index = Index.load(path, verify=True)
    assert len(index) == 58
    np.testing.assert_array_equal(index.search(unit(3, 1)).ids, writer.search(unit(3, 1)).ids)


def test_who_opens_an_index_while_another_takes_its_place_has_one_of_them(tmp_path, monkeypatch):
    path, asked = tmp_path / "index", unit(3, 1)
    ranker().index(unit(20, 0)).save(path)
    other = Reranker(Stack(Cosine(), unit(30, 9)), {"direction": "t2i"}, CPU).index(unit(20, 5))
    amid(monkeypatch, lambda: other.save(path))
    found = Index.load(path).search(asked)
    np.testing.assert_array_equal(found.rows, other.search(asked).rows)
    np.testing.assert_array_equal(found.scores, other.search(asked).scores)


def test_what_is_damaged_is_told_though_nobody_writes(tmp_path):
    ranker().index(unit(20, 0)).save(tmp_path / "index").remove([1])
    next((tmp_path / "index").glob("gone-*.npy")).unlink()
    with pytest.raises(UserError, match=r"gone-1.npy: no such file"):
        Index.load(tmp_path / "index")


@pytest.mark.parametrize(
    "change",
    [
        {"rows": -1},
        {"items": []},
        {"items": [{"file": "items-0.arrow", "rows": "many", "crc32": 0}]},
        {"tables": {"embeddings": {"dtype": "float16", "width": -1, "crc32": 0}}},
    ],
)
def test_numbers_of_a_manifest_that_can_not_be_are_told(tmp_path, change):
    ranker().index(unit(20, 0)).save(tmp_path / "index")
    path = tmp_path / "index" / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match="index"):
        Index.load(tmp_path / "index")


def test_a_checksum_that_is_none_is_told(tmp_path):
    ranker().index(unit(20, 0)).save(tmp_path / "index")
    path = tmp_path / "index" / "index.json"
    told = json.loads(path.read_text())
    told["tables"]["embeddings"]["crc32"] = "x"
    path.write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"index.json: not what an index says of itself"):
        Index.load(tmp_path / "index", verify=True)


class TestLance:
    @pytest.fixture(autouse=True)
    def needs_lancedb(self):
        pytest.importorskip("lancedb")

    @pytest.mark.parametrize("store", ["exact", "lance"])
    def test_one_whose_candidates_are_all_gone_can_be_kept(self, tmp_path, store):
        index = ranker().index(unit(5, 0), metadata={"split": ["test"] * 5}).save(tmp_path / "a", store="lance")
        index.remove(range(5))
        kept = index.save(tmp_path / "b", store=store)
        assert len(kept) == 0
        assert kept.search(unit(2, 1)).ids.shape == (2, 0)
        kept.add(unit(2, 3), metadata={"split": ["val", "val"]})
        assert sorted(kept.search(unit(1, 1)[0], where={"split": "val"}).ids) == [0, 1]

    def test_queries_for_which_fewer_are_found_than_for_others(self, tmp_path, monkeypatch):
        """A part of the table is looked at: how many it holds that pass a filter differs."""
        monkeypatch.setattr(lance_store, "_LARGE", 500)
        rng = np.random.default_rng(0)
        centres = rng.normal(size=(20, 24)) * 3
        embeddings = centres[np.minimum(rng.geometric(0.2, size=1_000) - 1, 19)] + rng.normal(size=(1_000, 24)) * 0.3
        exact = ranker().index(embeddings, metadata={"shelf": [row % 9 for row in range(1_000)]})
        index = exact.save(tmp_path / "index", store="lance")
        index.store.facts["probes"] = 1
        for k, options in ((400, {}), (9, {"where": {"shelf": 3}, "depth": 400})):
            hits = index.search(centres, k, batch_size=3, **options)
            whole = index.search(centres, k, batch_size=10_000, **options)
            counts = (hits.rows >= 0).sum(axis=1)
            assert counts.min() < counts.max() == hits.rows.shape[1]
            for name in ("ids", "rows", "cosine"):
                np.testing.assert_array_equal(getattr(hits, name), getattr(whole, name))
            np.testing.assert_allclose(hits.scores, whole.scores, rtol=1e-5, atol=1e-6)
            assert np.isneginf(hits.scores[hits.rows < 0]).all()
            assert (hits.ids[hits.rows < 0] == None).all()  # noqa: E711
            assert (hits.ids[hits.rows >= 0] == hits.rows[hits.rows >= 0]).all()

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ([], "lance.json: not what an index says of itself"),
            ({"rows": "many"}, "lance.json: not what an index says of itself"),
            ({"probes": -1}, "lance.json: not what an index says of itself"),
            ({"tables": {}}, "lance.json: not what an index says of itself"),
            ({"tables": {"embeddings": ["object", 24], "neighbours": ["float32", 10]}}, "lance.json: not what"),
            ({"tables": {"embeddings": ["float16", 9], "neighbours": ["float32", 10]}}, "lance.json: not what"),
            ({"tables": {"embeddings": ["float16", 0], "neighbours": ["float32", 10]}}, "lance.json: not what"),
        ],
    )
    def test_what_is_said_of_a_table_must_fit_it(self, tmp_path, change, said):
        ranker().index(unit(20, 0)).save(tmp_path / "index", store="lance")
        path = tmp_path / "index" / "lance.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change} if change else change))
        with pytest.raises(UserError, match=said):
            Index.load(tmp_path / "index")

    @pytest.mark.parametrize("lost", ["", "_versions", "data"])
    def test_a_table_that_is_broken_is_told(self, tmp_path, lost):
        ranker().index(unit(20, 0)).save(tmp_path / "index", store="lance")
        shutil.rmtree(tmp_path / "index" / "lance" / "items.lance" / lost)
        with pytest.raises(UserError, match=r"index/lance: the table can't be read .* Bring the folder again"):
            Index.load(tmp_path / "index").search(unit(2, 1))
        with pytest.raises(UserError, match=r"index/lance: the table can't be read"):
            Index.load(tmp_path / "index", verify=True)

    def test_a_table_that_can_not_be_written_is_told(self, tmp_path, monkeypatch):
        index = ranker().index(unit(20, 0)).save(tmp_path / "index", store="lance")

        def denied(*_):
            raise RuntimeError("lance error: LanceError(IO): Permission denied (os error 13)")

        for name, change in (("delete", lambda: index.remove([3])), ("add", lambda: index.add(unit(1, 1), [77]))):
            monkeypatch.setattr(type(index.store._table), name, denied)
            with pytest.raises(UserError, match=r"index/lance: the table can't be written \(lance error.* denied"):
                change()
            monkeypatch.undo()
        assert len(Index.load(tmp_path / "index")) == 20

    def test_what_another_process_did_since_is_not_done_again(self, tmp_path):
        path = tmp_path / "index"
        writer = ranker().index(unit(3, 0), ids=list("abc")).save(path, store="lance")
        late = [Index.load(path) for _ in range(3)]
        writer.add(unit(1, 1), ids=["d"])
        writer.remove(["a"])
        with pytest.raises(ValueError, match="ids: another process added 'd' meanwhile"):
            late[0].add(unit(2, 2), ids=["e", "d"])
        with pytest.raises(ValueError, match="row 0: is not in the index, or was removed"):
            late[1].remove(["b", "a"])
        late[2].add(unit(1, 2), ids=["e"])
        late[2].remove(["c"])
        for index in (*late[2:], Index.load(path)):
            assert sorted(index.search(unit(1, 3)[0]).ids) == ["b", "d", "e"]

    def test_an_index_whose_place_another_took_is_told(self, tmp_path):
        path = tmp_path / "index"
        index = ranker().index(unit(3, 0), ids=list("abc")).save(path, store="lance")
        other = Reranker(Stack(Cosine(), unit(30, 9)), {"direction": "t2i"}, CPU)
        other.index(unit(3, 7), ids=list("pqr")).save(path, store="lance")
        for change in (
            lambda: index.search(unit(1, 1)),
            lambda: index.add(unit(1, 1), ids=["d"]),
            lambda: index.store.add(*next(index.store.parts())),
            lambda: index.store.remove(np.array([1])),
        ):
            with pytest.raises(UserError, match=f"{path}: another index took its place since it was opened here"):
                change()
        assert sorted(Index.load(path).search(unit(1, 1)[0]).ids) == ["p", "q", "r"]
