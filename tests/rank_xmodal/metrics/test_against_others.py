"""The same numbers as ir_measures, and the numbers where allRank's metrics differ."""

import importlib
import sys
import types

import pytest
import torch

from rank_xmodal import metrics


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("MRR", "RR"),
        ("R@1", "Success@1"),
        ("R@5", "Success@5"),
        ("recall@5", "R@5"),
        ("recall@1", "R@1"),
        ("NDCG@10", "nDCG@10"),
        ("MAP@5", "AP@5"),
    ],
)
def test_equals_ir_measures_without_ties(lists, ours, theirs):
    ir_measures = pytest.importorskip("ir_measures")
    scores, labels = lists.random(11)
    judgements, run = [], []
    for query, (row, judged) in enumerate(zip(scores.tolist(), labels.tolist(), strict=True)):
        for item, (score, label) in enumerate(zip(row, judged, strict=True)):
            if label >= 0:
                judgements.append(ir_measures.Qrel(str(query), str(item), label))
                run.append(ir_measures.ScoredDoc(str(query), str(item), score))
    measure = ir_measures.parse_measure(theirs)
    reference = {int(m.query_id): m.value for m in ir_measures.iter_calc([measure], judgements, run)}
    values = metrics.compute(ours, scores, labels).tolist()
    assert len(reference) >= 35
    assert {query: values[query] for query in reference} == pytest.approx(reference)


@pytest.fixture(scope="module")
def allrank_metrics():
    """allRank's metrics, imported without its data loader, which needs torchvision to define the number -1."""
    pytest.importorskip("allrank")
    loader = "allrank.data.dataset_loading"
    stand_in = None
    if loader not in sys.modules:
        stand_in = types.ModuleType(loader)
        stand_in.PADDED_Y_VALUE = -1
        sys.modules[loader] = stand_in
    try:
        return importlib.import_module("allrank.models.metrics")
    finally:
        if stand_in is not None:
            del sys.modules[loader]


def test_equals_allrank_where_a_relevant_item_is_there(lists, allrank_metrics):
    scores, labels = lists.random(11, graded=True)
    some = (labels > 0).any(1)
    scores, labels = scores[some].float(), labels[some].float()
    theirs = allrank_metrics.ndcg(scores, labels, ats=[10])[:, 0].double()
    torch.testing.assert_close(metrics.ndcg(scores, labels, k=10), theirs, rtol=1e-5, atol=1e-6)
    binary = labels.clamp(max=1)
    torch.testing.assert_close(metrics.mrr(scores, binary), allrank_metrics.mrr(scores, binary)[:, 0].double())


def test_allrank_gives_full_marks_to_a_list_without_a_relevant_item(allrank_metrics):
    scores, labels = torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    assert allrank_metrics.mrr(scores, labels)[0].item() == 1.0
    assert allrank_metrics.ndcg(scores, labels)[0].item() == 1.0
    assert metrics.mrr(scores, labels).tolist() == [0.0, 0.5]
    assert metrics.ndcg(scores, labels, k=2)[0].item() == 0.0


def test_allrank_mrr_looks_for_the_highest_grade(allrank_metrics):
    scores, labels = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[1.0, 0.0, 2.0]])
    assert allrank_metrics.mrr(scores, labels).item() == pytest.approx(1 / 3)
    assert metrics.mrr(scores, labels).item() == 1.0
