import math

import torch

from rank_xmodal.metrics import first_relevant_rank


def test_counts_the_items_ahead(sample):
    expected = [next((i + 1.0 for i, y in enumerate(ranked) if y > 0), math.inf) for ranked in sample.ranked]
    assert math.inf in expected
    assert first_relevant_rank(sample.scores, sample.labels).tolist() == expected


def test_tied_non_relevant_items_count_as_above():
    scores = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 0.5, 0.5, 0.5], [1.0, 0.5, 0.5, 0.5]])
    labels = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1]])
    assert first_relevant_rank(scores, labels).tolist() == [4.0, 3.0, 1.0]


def test_tied_padding_counts_as_nothing():
    scores, labels = torch.full((1, 4), 2.0), torch.tensor([[-1, 1, -1, 0]])
    assert first_relevant_rank(scores, labels).tolist() == [2.0]


def test_score_of_padding_does_not_matter():
    scores = torch.tensor([[torch.inf, 1.0, torch.nan, 0.0, -torch.inf]])
    assert first_relevant_rank(scores, torch.tensor([[-1, 0, -1, 1, -1]])).tolist() == [2.0]


def test_infinite_scores_are_ranked():
    scores = torch.tensor([[-torch.inf, torch.inf, 0.0, -torch.inf]])
    assert first_relevant_rank(scores, torch.tensor([[1, 0, 0, -1]])).tolist() == [3.0]


def test_without_a_relevant_item_or_any_item():
    labels = torch.tensor([[0, 0], [0, -1], [-1, -1]])
    assert first_relevant_rank(torch.zeros(3, 2), labels).tolist() == [math.inf] * 3


def test_neither_input_nor_graph_is_touched():
    scores, labels = torch.randn(3, 4, requires_grad=True), torch.tensor([[1, -1, 0, 0]]).repeat(3, 1)
    before = scores.detach().clone(), labels.clone()
    assert not first_relevant_rank(scores, labels).requires_grad
    assert torch.equal(scores.detach(), before[0])
    assert torch.equal(labels, before[1])
