"""Entity resolution against loops over every pair, and assignments against every assignment there is."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from rank_xmodal.evaluation import resolution
from rank_xmodal.evaluation.resolution import RULES, CandidatePairs, above, assign, best_threshold, judge
from rank_xmodal.retrieval.gallery import rank_gallery


def drawn(queries=5, candidates=4, share=0.7, seed=0, lost=2):
    """Return random candidate pairs, a share of all, with probabilities; `lost` true pairs are not among them."""
    rng = np.random.default_rng(seed)
    row, column = np.nonzero(rng.random((queries, candidates)) < share)
    match = rng.random(len(row)) < 0.4
    pairs = CandidatePairs(row + 7, column + 3, match, int(match.sum()) + lost, queries * candidates + lost)
    return pairs, rng.random(len(row))


def every_assignment(pairs):
    """Yield every set of pairs, as places, that uses no item twice."""

    def extend(place, taken, queries, candidates):
        if place == len(pairs):
            yield taken
            return
        yield from extend(place + 1, taken, queries, candidates)
        q, c = pairs.query[place], pairs.candidate[place]
        if q not in queries and c not in candidates:
            yield from extend(place + 1, [*taken, place], queries | {q}, candidates | {c})

    yield from extend(0, [], frozenset(), frozenset())


def joint(probability, called):
    """Return the probability that just the called pairs are matches, each pair for itself."""
    return math.prod(p if place in set(called) else 1 - p for place, p in enumerate(probability.tolist()))


def counted(pairs, called):
    """Return precision, recall, F1 and the confusion matrix by a loop."""
    tp = fp = 0
    for place, one in enumerate(called.tolist()):
        tp += one and bool(pairs.match[place])
        fp += one and not pairs.match[place]
    fn = pairs.true_pairs - tp
    precision, recall = tp / (tp + fp) if tp + fp else 0.0, tp / (tp + fn) if tp + fn else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return precision, recall, f1, ((pairs.all_pairs - tp - fp - fn, fp), (fn, tp))


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_the_pairs_are_those_of_the_lists(corpus, direction):
    data = corpus.planted(images=40)
    gallery = rank_gallery(data, direction, "test", depth=4)
    pairs = CandidatePairs.of(gallery)
    asked, offered = data.query_rows(direction, "test"), data.candidate_rows(direction, "test")
    relevant = data.relevance_matrix(direction)
    found = list(zip(pairs.query.tolist(), pairs.candidate.tolist(), pairs.match.tolist(), strict=True))
    assert found == [
        (q, c, relevant[q, c] > 0)
        for q, row in zip(gallery.lists.query.tolist(), gallery.lists.candidates.tolist(), strict=True)
        for c in row
    ]
    true = {(q, c) for q in asked.tolist() for c in offered.tolist() if relevant[q, c] > 0}
    kept = {(q, c) for q, c, _ in found}
    assert resolution.blocking(pairs) == {
        "candidate_pairs": len(kept),
        "all_pairs": len(asked) * len(offered),
        "true_pairs": len(true),
        "pairs_completeness": pytest.approx(len(true & kept) / len(true)),
        "reduction_ratio": pytest.approx(1 - len(kept) / (len(asked) * len(offered))),
    }
    assert 0 < resolution.blocking(pairs)["pairs_completeness"] < 1


def test_padding_is_no_pair(corpus):
    gallery = rank_gallery(corpus.planted(images=40), "t2i", "test", depth=4)
    gallery.lists.labels[0, 2:] = -1
    gallery.lists.candidates[0, 2:] = -1
    pairs = CandidatePairs.of(gallery)
    assert len(pairs) == gallery.lists.labels.size - 2
    assert (pairs.candidate >= 0).all()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("rule", RULES)
def test_figures_by_a_loop(rule, seed):
    pairs, probability = drawn(seed=seed)
    for threshold in (0.0, 0.4, 0.8, 1.0):
        called = RULES[rule](pairs, probability, threshold)
        found = judge(pairs, called, threshold)
        *shares, confusion = counted(pairs, called)
        assert [found.precision, found.recall, found.f1] == pytest.approx(shares)
        assert found.confusion == confusion
        assert found.threshold == threshold


def test_what_blocking_lost_costs_recall():
    pairs = CandidatePairs(np.array([0]), np.array([0]), np.array([True]), 4, 20)
    found = judge(pairs, np.array([True]), 0.5)
    assert (found.precision, found.recall, found.confusion) == (1.0, 0.25, ((16, 0), (3, 1)))


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_an_assignment_is_the_best_of_all(threshold, seed):
    shape = [(4, 4), (5, 3), (3, 5)][seed % 3]
    pairs, probability = drawn(*shape, seed=seed)
    called = assign(pairs, probability, threshold)
    assert len({*pairs.query[called]}) == len({*pairs.candidate[called]}) == called.sum(), "no item twice"
    assert (probability[called] >= threshold).all()
    gain = np.log(probability / (1 - probability)) - math.log(threshold / (1 - threshold))
    best = max(math.fsum(gain[taken]) for taken in every_assignment(pairs))
    assert math.fsum(gain[called]) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(10))
def test_at_one_half_the_joint_probability_is_the_largest(seed):
    pairs, probability = drawn(4, 4, seed=seed)
    called = np.flatnonzero(assign(pairs, probability, 0.5)).tolist()
    best = max(joint(probability, taken) for taken in every_assignment(pairs))
    assert joint(probability, called) == pytest.approx(best)


def test_a_pair_that_just_reaches_the_threshold_is_a_match():
    pairs = CandidatePairs(np.array([0, 1]), np.array([0, 1]), np.array([True, False]), 1, 4)
    probability = np.array([0.3, math.nextafter(0.3, 0)])
    for rule in RULES.values():
        assert rule(pairs, probability, 0.3).tolist() == [True, False]


def test_certain_pairs_are_assigned_too():
    pairs = CandidatePairs(np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([True, False, True]), 2, 4)
    assert assign(pairs, np.array([1.0, 1.0, 1.0]), 1.0).tolist() == [True, False, True], "of equal sums more pairs"
    assert assign(pairs, np.array([0.0, 0.0, 0.0]), 0.0).sum() == 2


def test_nothing_above_the_threshold_is_no_match():
    pairs, probability = drawn()
    for rule in RULES.values():
        called = rule(pairs, 0.5 * probability, 0.6)
        assert not called.any()
        found = judge(pairs, called, 0.6)
        assert (found.precision, found.recall, found.f1) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("seed", range(6))
def test_the_best_threshold_of_all_probabilities(seed):
    pairs, probability = drawn(8, 8, seed=seed)
    probability = (10 * probability).round() / 10  # ties
    tried = {t: counted(pairs, probability >= t)[2] for t in probability.tolist()}
    found = best_threshold(pairs, probability, "threshold")
    assert found.f1 == pytest.approx(max(tried.values()))
    assert found.threshold == max(t for t, f1 in tried.items() if f1 == max(tried.values())), "of equals the highest"


@pytest.mark.parametrize("most", [200, 3])
@pytest.mark.parametrize("seed", range(6))
def test_the_best_threshold_of_an_assignment(seed, most, monkeypatch):
    monkeypatch.setattr(resolution, "_TRIED", most)
    pairs, probability = drawn(8, 8, seed=seed)
    tried = sorted({*probability[assign(pairs, probability, 0.0)].tolist()}, reverse=True)
    if len(tried) > most:
        tried = [tried[round(place)] for place in np.linspace(0, len(tried) - 1, most)]
    f1 = [counted(pairs, assign(pairs, probability, t))[2] for t in tried]
    found = best_threshold(pairs, probability, "assignment")
    assert found.f1 == pytest.approx(max(f1))
    assert found.threshold == tried[f1.index(max(f1))], "of equals the highest"


@pytest.mark.parametrize("rule", RULES)
def test_where_nothing_is_true_the_highest_threshold_stands(rule):
    pairs, probability = drawn(lost=0)
    none = CandidatePairs(pairs.query, pairs.candidate, np.zeros_like(pairs.match), 0, pairs.all_pairs)
    found = best_threshold(none, probability, rule)
    assert (found.precision, found.recall, found.f1) == (0.0, 0.0, 0.0)
    assert found.threshold == probability[RULES[rule](none, probability, 0.0)].max()
    assert resolution.blocking(none)["pairs_completeness"] == 0.0


@pytest.mark.parametrize("owner", [[0, 1, 2], [0, 0, 1], [0, 0, 0], []])
def test_the_recall_that_one_to_one_leaves(owner):
    """Captions of the images `owner`: one of each image's can be found."""
    matrix = sp.csr_matrix((np.full(len(owner), 3), (range(len(owner)), owner)), shape=(len(owner) + 1, 4))
    expected = len({*owner}) / len(owner) if owner else 0.0
    assert resolution.one_to_one_recall(matrix) == resolution.one_to_one_recall(matrix.T.tocsr()) == expected


def cross_entropy(scores, labels):
    """Return minus the mean log softmax of what is relevant, summed over the lists, by loops."""
    total = 0.0
    for row, marks in zip(scores.tolist(), labels.tolist(), strict=True):
        listed = [s for s, y in zip(row, marks, strict=True) if y >= 0]
        own = [s for s, y in zip(row, marks, strict=True) if y > 0]
        norm = math.log(sum(math.exp(s) for s in listed))
        total -= sum(s - norm for s in own) / len(own) if own else 0.0
    return total


def test_scores_are_brought_to_the_scale_of_their_softmax():
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(300, 6, generator=draw)
    labels = torch.zeros(300, 6, dtype=torch.int8).scatter_(
        1, (2 * scores).softmax(1).multinomial(1, generator=draw), 1
    )
    labels[:3, 4:], labels[5, 0], labels[7] = -1, 1, 0  # padding, several relevant, none
    scores[:3, 4:] = 99.0
    found = resolution.softmax_scale(scores, labels)
    assert found == pytest.approx(2, rel=0.2)
    at_best = cross_entropy(found * scores, labels)
    assert at_best < min(cross_entropy(step * found * scores, labels) for step in (0.97, 1.03))
    assert resolution.softmax_scale(scores / 100, labels) == pytest.approx(100 * found, rel=1e-3)


def test_the_scale_of_separable_lists_is_finite():
    scores, labels = torch.eye(6) / 50, torch.eye(6).to(torch.int8)
    assert 0 < resolution.softmax_scale(scores, labels) * float(scores[0].std(correction=0)) <= 10
    assert resolution.softmax_scale(scores, torch.zeros_like(labels)) == 1.0, "nothing relevant"
    assert resolution.softmax_scale(torch.ones(6, 6), labels) == 1.0, "no scores differ"


@pytest.mark.parametrize("wrong", [[0.2], [0.2, 1.2], [-0.1, 0.5], [0.5, math.nan]])
@pytest.mark.parametrize("rule", RULES)
def test_what_is_no_probability_is_refused(rule, wrong):
    pairs = CandidatePairs(np.array([0, 1]), np.array([0, 1]), np.array([True, False]), 1, 4)
    with pytest.raises(ValueError, match="probability"):
        RULES[rule](pairs, np.array(wrong), 0.5)
    with pytest.raises(ValueError, match="probability"):
        best_threshold(pairs, np.array(wrong), rule)


def test_other_nonsense_is_refused():
    pairs, probability = drawn()
    empty = CandidatePairs(*(np.empty(0, dtype=kind) for kind in (int, int, bool)), 1, 4)
    with pytest.raises(ValueError, match=r"threshold is 1\.5"):
        assign(pairs, probability, 1.5)
    with pytest.raises(ValueError, match="one bool for each"):
        judge(pairs, probability, 0.5)
    for rule in RULES:
        with pytest.raises(ValueError, match="no candidate pair"):
            best_threshold(empty, np.empty(0), rule)
    assert not above(empty, np.empty(0), 0.5).any()
    assert not assign(empty, np.empty(0), 0.5).any()
