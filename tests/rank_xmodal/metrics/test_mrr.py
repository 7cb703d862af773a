import pytest

from rank_xmodal.metrics import mrr


def test_is_one_over_the_rank_of_the_first_relevant_item(sample):
    expected = [next((1 / (i + 1) for i, y in enumerate(ranked) if y > 0), 0.0) for ranked in sample.ranked]
    assert mrr(sample.scores, sample.labels).tolist() == pytest.approx(expected)
