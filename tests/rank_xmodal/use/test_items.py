"""What candidates are called and what is said of them: taken as it is meant, or refused, and nothing half done."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from rank_xmodal.scorers import Stack
from rank_xmodal.scorers.csls import CSLS
from rank_xmodal.use.reranker import Reranker

CPU = torch.device("cpu")


def unit(count, seed, dim=24):
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture
def ranker():
    return Reranker(Stack(CSLS(), unit(30, 9)), {"direction": "t2i"}, CPU)


@pytest.fixture(params=["memory", "exact", "lance"])
def keep(request, tmp_path):
    if request.param == "lance":
        pytest.importorskip("lancedb")

    def keep(index):
        return index if request.param == "memory" else index.save(tmp_path / "index", store=request.param)

    return keep


@pytest.mark.parametrize(
    ("ids", "gone", "lost"),
    [
        (["a", "a", "b", "c"], ["a", "z"], "'z'"),  # as many rows as names, and yet one isn't there
        (range(4), [1, 2.5], "2.5"),
        (range(4), [2.5], "2.5"),
        (range(4), [1, "x"], "'x'"),
        (range(4), ["1"], "'1'"),
        (range(4), [0, 2**70], str(2**70)),
        (["1", "2", "3", "4"], ["1", 2], "2"),
    ],
)
def test_an_id_that_is_not_there_is_told_by_its_name_and_nothing_removed(ranker, keep, ids, gone, lost):
    index = keep(ranker.index(unit(4, 0), ids=ids))
    with pytest.raises(ValueError, match=f"ids: {lost} is not in the index. Nothing was removed"):
        index.remove(gone)
    assert len(index) == 4


def test_a_string_is_no_list_of_ids(ranker):
    index = ranker.index(unit(4, 0), ids=list("abcd"))
    with pytest.raises(ValueError, match=r"ids='ab': give a list of them, as \['ab'\]"):
        index.remove("ab")
    assert len(index) == 4


def test_ids_that_several_share_are_removed_together(ranker, keep):
    index = keep(ranker.index(unit(4, 0), ids=["a", "a", "b", "c"]))
    assert index.remove(np.array(["a", "c", "a"])) == 3
    assert index.search(unit(1, 1)[0]).ids.tolist() == ["b"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ids": ["a", None]}, "ids: number 1 is missing. Give each candidate a name"),
        ({"ids": [1.5, float("nan")]}, "ids: number 1 is missing. Give each candidate a name"),
        ({"ids": ["a", 1]}, "id: values must be numbers, or strings, all of one kind"),
        ({"ids": [2**53 + 1, 0.5]}, "id: values must be numbers, or strings, all of one kind"),
        ({"own": sp.csr_matrix((2, 29))}, r"own has shape \(2, 29\): give \(2, 30\)"),
        ({"own": sp.csr_matrix((3, 30))}, r"own has shape \(3, 30\): give \(2, 30\)"),
        ({"ids": [1, 2**70]}, "id: values must be numbers, or strings, all of one kind"),
        ({"metadata": {"n": [1, 2**70]}}, "n: values must be numbers, or strings, all of one kind"),
        ({"metadata": {"n": 3}}, "metadata column 'n': 3 is no list of 2 values"),
        ({"metadata": {"n": "ab"}}, "metadata column 'n': 'ab' is no list of 2 values"),
        ({"metadata": {3: [1, 2]}}, "metadata column 3: must be a word"),
    ],
)
def test_what_can_not_be_said_of_candidates_is_refused(ranker, given, said):
    with pytest.raises(ValueError, match=said):
        ranker.index(unit(2, 0), **given)


def test_ids_of_two_kinds_stay_what_they_are_or_are_refused(ranker, keep):
    index = keep(ranker.index(unit(2, 0), ids=["a", "b\0"]))
    with pytest.raises(ValueError, match="id: values must be numbers, or strings, all of one kind"):
        index.add(unit(2, 1), ids=["c", 5])
    assert sorted(index.search(unit(1, 1)[0]).ids) == ["a", "b\0"]
    assert set(ranker.rank(unit(1, 1)[0], unit(2, 0), ids=["a", 5]).ids) == {"a", 5}


@pytest.mark.parametrize("given", [np.full((2, 24), "1"), np.ones((2, 24), dtype=complex)])
def test_what_is_no_number_is_no_embedding(ranker, given):
    index = ranker.index(unit(2, 0))
    for take, what in ((index.search, "queries"), (ranker.index, "embeddings"), (index.add, "embeddings")):
        with pytest.raises(ValueError, match=rf"{what} are of {given.dtype}: give numbers, \(n, 24\)"):
            take(given)


def test_an_index_begins_with_a_candidate(ranker):
    with pytest.raises(ValueError, match=r"embeddings have shape \(0, 24\): an index needs one candidate at least"):
        ranker.index(np.empty((0, 24)))


def test_columns_may_come_in_any_order_and_with_gaps(ranker, keep):
    index = keep(ranker.index(unit(3, 0), metadata={"year": [1, 2, 3], "name": ["a", None, "c"]}))
    index.add(unit(2, 4), metadata={"name": [None, None], "year": [4, None]})
    index.add(np.empty((0, 24)), [], metadata={"year": [], "name": []})
    assert len(index) == 5
    assert index.search(unit(1, 1)[0], where={"year": 4}).ids.tolist() == [3]
    assert sorted(index.search(unit(1, 1)[0], where={"name": None}).ids) == [1, 3, 4]
    with pytest.raises(ValueError, match=r"metadata has the columns \['name', 'size'\], the index \['year', 'name'\]"):
        index.add(unit(1, 5), metadata={"name": ["d"], "size": [5]})


def test_a_row_that_is_named_twice_counts_once(ranker, keep):
    index, asked = keep(ranker.index(unit(20, 0))), unit(3, 1)
    rows = np.array([[3, 7, 3, 11, -1], [5, 5, 5, 5, 5], [1, 2, 3, 4, 0]])
    hits = index.rank(asked, rows)
    once = [[3, 7, 11], [5], [0, 1, 2, 3, 4]]
    for query, named in enumerate(once):
        alone = index.rank(asked[query], np.array(named))
        np.testing.assert_array_equal(hits.rows[query], alone.rows.tolist() + [-1] * (5 - len(named)))
        np.testing.assert_allclose(hits.scores[query, : len(named)], alone.scores, rtol=1e-5, atol=1e-6)
    assert index.rank(asked[0], np.array([7, 7]), k=1).ids.tolist() == [7]
