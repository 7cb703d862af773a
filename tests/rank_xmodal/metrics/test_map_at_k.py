import pytest
import torch
from sklearn.metrics import average_precision_score

from rank_xmodal import metrics
from rank_xmodal.metrics import map_at_k


@pytest.mark.parametrize("graded", [False, True])
def test_equals_scikit_learn_on_whole_lists_without_ties(lists, graded):
    scores, labels = lists.random(5, graded=graded)
    values = map_at_k(scores, labels, k=12)
    checked = 0
    for row, judged, value in zip(scores, labels, values, strict=True):
        valid = judged >= 0
        if (judged > 0).any():
            assert value.item() == pytest.approx(average_precision_score(judged[valid] > 0, row[valid]))
            checked += 1
        else:
            assert value == 0
    assert checked >= 30


@pytest.mark.parametrize("k", [1, 3, 12, 100])
def test_is_the_sum_of_precisions_at_relevant_items_over_all_of_them(sample, k):
    expected = []
    for ranked in sample.ranked:
        hits = [place for place, label in enumerate(ranked[:k], 1) if label > 0]
        precisions = [count / place for count, place in enumerate(hits, 1)]
        expected.append(sum(precisions) / max(1, sum(label > 0 for label in ranked)))
    assert map_at_k(sample.scores, sample.labels, k).tolist() == pytest.approx(expected)


def test_by_hand():
    scores, labels = torch.tensor([[4.0, 3.0, 2.0, 1.0]]), torch.tensor([[2, 0, 1, 1]])
    assert map_at_k(scores, labels, k=3).item() == pytest.approx((1 + 2 / 3) / 3)


def test_relevant_items_outside_the_list_count_as_not_found():
    scores, labels = torch.tensor([[3.0, 2.0], [3.0, 2.0], [3.0, 2.0]]), torch.tensor([[1, 0], [0, 0], [0, 0]])
    assert map_at_k(scores, labels, k=2, n_relevant=torch.tensor([5, 1, 0])).tolist() == [0.2, 0.0, 0.0]


def test_equals_ir_measures_without_ties(lists):
    ir_measures = pytest.importorskip("ir_measures")
    scores, labels = lists.random(11)
    judgements, run = [], []
    for query, (row, judged) in enumerate(zip(scores.tolist(), labels.tolist(), strict=True)):
        for item, (score, label) in enumerate(zip(row, judged, strict=True)):
            if label >= 0:
                judgements.append(ir_measures.Qrel(str(query), str(item), label))
                run.append(ir_measures.ScoredDoc(str(query), str(item), score))
    measure = ir_measures.parse_measure("AP@5")
    reference = {int(m.query_id): m.value for m in ir_measures.iter_calc([measure], judgements, run)}
    values = metrics.compute("MAP@5", scores, labels).tolist()
    assert {query: values[query] for query in reference} == pytest.approx(reference)


def test_its_name_takes_k_and_n_relevant(lists):
    scores, labels = lists.random(3)
    total = (labels > 0).sum(1) + 2
    assert torch.equal(metrics.get("MAP@5")(scores, labels), map_at_k(scores, labels, 5))
    assert torch.equal(metrics.get("map@5")(scores, labels, total), map_at_k(scores, labels, 5, total))
    assert not torch.equal(map_at_k(scores, labels, 5, total), map_at_k(scores, labels, 5))


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_a_bad_k(k):
    with pytest.raises(ValueError, match=r"k is .*: pass an integer of at least 1"):
        map_at_k(torch.zeros(1, 2), torch.zeros(1, 2), k)
