"""allRank's own model and losses on our lists."""

import math

import pytest


@pytest.mark.parametrize("loss", ["lambdarank", "neuralndcg", "listnet", "ranknet"])
def test_allrank_trains_on_our_lists(corpus, loss):
    pytest.importorskip("allrank.models.model")
    trained = corpus.train(
        corpus.data, corpus.lists_of(corpus.data), corpus.chosen(scorer="allrank", loss=loss, epochs=1, layers=1)
    )
    assert all(math.isfinite(h["loss"]) for h in trained.scorer.history[1:])
    report, _ = corpus.report_of(trained, corpus.data)
    assert 0 <= report["ranker"]["R@1"] <= 1
