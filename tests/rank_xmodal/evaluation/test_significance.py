"""The paired randomisation test against counts that anyone can redo."""

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest

from rank_xmodal.evaluation.significance import holm, paired_p, standard_error


def test_few_differences_give_the_exact_share_of_sign_patterns():
    a, b = np.array([0.9, 0.3, 0.8, 0.7, 0.5]), np.array([0.4, 0.5, 0.2, 0.6, 0.5])
    d = (a - b)[:4]
    sums = [abs(np.dot(signs, d)) for signs in itertools.product([1, -1], repeat=4)]
    assert paired_p(a, b) == pytest.approx(np.mean(np.array(sums) >= abs(d.sum()) - 1e-12))


def test_of_hits_and_misses_it_is_the_sign_test():
    rng = np.random.default_rng(0)
    a = (rng.random(400) < 0.6).astype(float)
    b = np.where(rng.random(400) < 0.15, 1 - a, a)
    gained, lost = int((a > b).sum()), int((a < b).sum())
    assert paired_p(a, b) == pytest.approx(binomtest(gained, gained + lost).pvalue, rel=1e-9)


def test_of_means_over_seeds_it_is_the_exact_share_of_sign_patterns():
    a, b = np.array([3, 0, 2, 3, 1, 3, 3, 0]) / 3, np.array([0, 1, 0, 1, 1, 2, 3, 2]) / 3
    d = np.rint(3 * (a - b))[a != b]
    sums = [abs(np.dot(signs, d)) for signs in itertools.product([1, -1], repeat=len(d))]
    assert paired_p(a, b) == pytest.approx(np.mean(np.array(sums) >= abs(d.sum())))


def test_many_comparisons_can_be_corrected():
    """9,999 drawn patterns give no p below 0.0002: of 300 comparisons none could have been significant."""
    p = paired_p(np.ones(60), np.r_[np.zeros(58), np.ones(2)])
    assert p == pytest.approx(2 * 0.5**58, abs=1e-13)
    assert (holm(np.full(300, p)) < 0.001).all()
    assert paired_p(np.ones(25_000), np.zeros(25_000)) > 0


def test_other_metrics_are_drawn():
    rng = np.random.default_rng(4)
    a, b = 1 / rng.integers(1, 200, 500), 1 / rng.integers(1, 200, 500)
    assert 0.0002 <= paired_p(a, b) <= 1


def test_no_difference_is_no_evidence_and_a_large_one_is():
    a = np.ones(300)
    assert paired_p(a, a) == 1.0
    assert paired_p(a, np.r_[0.0, a[1:]]) == 1.0
    assert paired_p(a, np.zeros(300)) < 0.001


def test_it_rejects_at_its_level_when_there_is_nothing():
    rng = np.random.default_rng(1)
    found = [paired_p(rng.normal(size=12), rng.normal(size=12)) for _ in range(300)]
    assert 0.02 < np.mean(np.array(found) < 0.05) < 0.09


def test_it_repeats_and_does_not_care_who_is_first():
    rng = np.random.default_rng(2)
    a, b = rng.random(200), rng.random(200)
    assert paired_p(a, b) == paired_p(a, b)
    assert paired_p(a, b) == pytest.approx(paired_p(b, a), abs=0.02)


def test_other_queries_are_refused():
    with pytest.raises(ValueError, match=r"\(3,\) and against \(4,\)"):
        paired_p(np.zeros(3), np.zeros(4))


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_query_without_a_value_is_refused(broken):
    with pytest.raises(ValueError, match="must be finite"):
        paired_p(np.array([1.0, broken, 0.0]), np.zeros(3))


def test_holm_equals_a_calculation_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03, 0.5])).tolist() == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]
    assert holm(np.array([])).tolist() == []


def test_holm_keeps_the_order_and_never_lowers():
    p = np.random.default_rng(0).random(50) ** 3
    adjusted = holm(p)
    assert (adjusted >= p).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()
    with pytest.raises(ValueError, match="from 0 to 1"):
        holm(np.array([0.1, np.nan]))


def test_flipping_groups_equals_going_through_all_their_signs():
    rng = np.random.default_rng(3)
    for _ in range(5):
        groups = rng.integers(0, 6, 14)
        values, against = (rng.integers(0, 2, 14).astype(float) for _ in range(2))
        sums = np.array([(values - against)[groups == g].sum() for g in range(6)])
        observed = abs(sums.sum())
        patterns = np.array(list(itertools.product([-1, 1], repeat=6))) @ sums
        assert paired_p(values, against, groups) == pytest.approx(
            (np.abs(patterns) >= observed - 1e-9).mean(), abs=1e-9
        )


def test_captions_of_an_image_are_no_independent_witnesses():
    """Each image is hard or easy for a ranking, all five captions of it alike: the test that minds keeps its level."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(200), 5)
    naive, right = [], []
    for _ in range(400):
        shares = rng.uniform(0.1, 0.9, size=(2, 200))
        values, against = (rng.random(1000) < share[groups] for share in shares)
        naive.append(paired_p(values.astype(float), against.astype(float)) < 0.05)
        right.append(paired_p(values.astype(float), against.astype(float), groups) < 0.05)
    assert np.mean(naive) > 0.08
    assert np.mean(right) < 0.08


def test_groups_of_one_change_nothing():
    rng = np.random.default_rng(1)
    values, against = rng.random(30), rng.random(30)
    assert paired_p(values, against, np.arange(30)) == paired_p(values, against)
    with pytest.raises(ValueError, match="must be one for each"):
        paired_p(values, against, np.arange(29))


def test_the_standard_error_of_grouped_differences():
    rng = np.random.default_rng(2)
    plain = rng.normal(size=500)
    assert standard_error(plain) == pytest.approx(plain.std(ddof=1) / np.sqrt(500))
    groups = np.repeat(np.arange(100), 5)
    # Five copies are one witness: as if there were a fifth of the queries.
    assert standard_error(plain[:100][groups], groups) == pytest.approx(plain[:100].std(ddof=1) / 10)
    assert np.isnan(standard_error(plain[:5], np.zeros(5)))
