"""Figures over a whole gallery against a plain count."""

import math

import numpy as np
import pytest
import torch

from rank_xmodal import metrics, scorers
from rank_xmodal.evaluation.judging import per_query
from rank_xmodal.retrieval.gallery import rank_gallery


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_evaluation_equals_a_plain_count(corpus, direction):
    ranked = rank_gallery(corpus.data, direction, "test", depth=12)
    values = per_query(torch.from_numpy(ranked.lists.cosine), ranked)
    gallery = corpus.data.candidate_rows(direction, "test")
    relevant = corpus.data.relevance_matrix(direction).toarray()
    for place, query in enumerate(ranked.lists.query):
        cosine = corpus.data.candidates(direction)[gallery].astype(np.float64) @ corpus.data.queries(direction)[
            query
        ].astype(np.float64)
        order = gallery[np.argsort(-cosine, kind="stable")]
        ranks = [rank + 1 for rank, row in enumerate(order) if relevant[query, row]]
        listed = [rank for rank in ranks if rank <= 12]
        for k in (1, 5, 10):
            assert float(values[f"R@{k}"][place]) == any(rank <= k for rank in listed)
        assert float(values["MRR"][place]) == pytest.approx(1 / listed[0] if listed else 0.0)
        gain = sum(1 / math.log2(1 + rank) for rank in listed if rank <= 10)
        ideal = sum(1 / math.log2(2 + i) for i in range(min(10, len(ranks))))
        assert float(values["NDCG@10"][place]) == pytest.approx(gain / ideal)
        assert float(values["MeanRank"][place]) == ranks[0]
    assert ranked.ceiling == pytest.approx(float((values["MRR"] > 0).double().mean()))


def test_a_report_has_the_fields_of_the_contract(corpus):
    settings = scorers.parse({"scorer": "csls"})
    report, _ = corpus.report_of(corpus.train(corpus.data, corpus.lists, settings), corpus.data)
    assert {"direction", "split", "queries", "candidates", "ceiling", "clip", "csls", "ranker"} <= set(report)
    assert report["rows"] == ["clip", "csls", "ranker"]
    assert report["first_stage"] == "clip"
    assert set(metrics.DEFAULT) <= set(report["ranker"])
    assert report["queries"] == 200
    assert report["candidates"] == 51
