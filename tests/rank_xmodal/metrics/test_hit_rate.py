import pytest

from rank_xmodal.metrics import hit_rate


@pytest.mark.parametrize("k", [1, 3, 12, 100])
def test_counts_lists_with_a_relevant_item_in_the_top_k(sample, k):
    expected = [float(any(y > 0 for y in ranked[:k])) for ranked in sample.ranked]
    assert hit_rate(sample.scores, sample.labels, k).tolist() == expected
