"""Filters by columns of any kind: the files and the table say the same of each value."""

import numpy as np
import pytest
import torch

from rank_xmodal.scorers import Stack
from rank_xmodal.scorers.csls import CSLS
from rank_xmodal.use.reranker import Reranker

CPU = torch.device("cpu")
INF = float("inf")
COLUMNS = {
    "real": [1.0, np.nan, None, 2.5, -0.0, 0.0, INF, -INF],
    "sold": [True, False, None, True, False, True, True, None],
    "year": [1, 2, None, 4, 5, -6, 2**53 + 1, 2**63 - 1],
    "name": ["a'b", "c\\d", None, "%", 'é\n"`', "", "1", "true"],
    "from": list("aabbccdd"),
}


def unit(count, seed, dim=24):
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture(scope="module", params=["memory", "exact", "lance"])
def index(request, tmp_path_factory):
    index = Reranker(Stack(CSLS(), unit(30, 9)), {"direction": "t2i"}, CPU).index(unit(8, 0), metadata=COLUMNS)
    if request.param == "lance":
        pytest.importorskip("lancedb")
    folder = tmp_path_factory.mktemp("index") / "index"
    return index if request.param == "memory" else index.save(folder, store=request.param)


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ({}, range(8)),
        ({"real": 1}, [0]),
        ({"real": np.nan}, [1]),
        ({"real": None}, [2]),
        ({"real": [None, 2.5, np.nan]}, [1, 2, 3]),
        ({"real": 0.0}, [4, 5]),
        ({"real": -0.0}, [4, 5]),
        ({"real": INF}, [6]),
        ({"real": [-INF, np.float32(1)]}, [0, 7]),
        ({"sold": True}, [0, 3, 5, 6]),
        ({"sold": np.bool_(False)}, [1, 4]),
        ({"sold": [None, False]}, [1, 2, 4, 7]),
        ({"year": np.int32(4)}, [3]),
        ({"year": 2.0}, [1]),
        ({"year": np.array(5)}, [4]),
        ({"year": [None, -6, 2**63 - 1]}, [2, 5, 7]),
        ({"year": 2**53}, []),
        ({"name": ["a'b", "c\\d"]}, [0, 1]),
        ({"name": np.array(["%", ""])}, [3, 5]),
        ({"name": 'é\n"`'}, [4]),
        ({"name": [None, "b"]}, [2]),
        ({"from": ("b", "d"), "sold": True}, [3, 6]),
        ({"id": {1, 3}}, [1, 3]),
    ],
)
def test_a_filter_keeps_what_equals_one_of_its_values(index, where, rows):
    hits = index.search(unit(2, 1), where=where)
    np.testing.assert_array_equal(np.sort(hits.rows, axis=1), [list(rows)] * 2)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"real": "a"}, r"where 'real': \['a'\] are no values of a column of double"),
        ({"sold": 1}, r"where 'sold': \[1\] are no values of a column of bool"),
        ({"sold": "true"}, r"where 'sold': \['true'\] are no values of a column of bool"),
        ({"year": 1.5}, r"where 'year': \[1.5\] are no values of a column of int64"),
        ({"year": True}, r"where 'year': \[True\] are no values of a column of int64"),
        ({"year": "1"}, r"where 'year': \['1'\] are no values of a column of int64"),
        ({"year": [1, 2**70]}, "are no values of a column of int64"),
        ({"name": 3}, r"where 'name': \[3\] are no values of a column of string"),
        ({"id": "2"}, r"where 'id': \['2'\] are no values of a column of int64"),
        ({"Year": 1}, "where='Year': the index has no such column; it has id, real, sold, year, name, from"),
        ({"year": []}, "where 'year': allows no value at all"),
        ("year=1", "where='year=1': give columns and the values that they may have, as {'year': 1}"),
    ],
)
def test_a_value_that_a_column_can_not_have_is_told(index, where, said):
    with pytest.raises(ValueError, match=said):
        index.search(unit(2, 1), where=where)
