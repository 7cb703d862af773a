import pytest
import torch

from rank_xmodal.losses import smoothap


def average_precision(scores, labels):
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    found, precisions = 0, []
    for rank, place in enumerate(order, start=1):
        if labels[place] > 0:
            found += 1
            precisions.append(found / rank)
    return sum(precisions) / len(precisions)


def test_tends_to_1_minus_average_precision():
    scores, labels = torch.rand(8, 20).argsort(1).double(), torch.randint(0, 2, (8, 20))
    labels[:, 0], labels[:, 1] = 0, 1
    loss = smoothap(scores, labels, temperature=0.02, reduction="none")
    expected = [1 - average_precision(s, y) for s, y in zip(scores.tolist(), labels.tolist(), strict=True)]
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64))


def test_equal_scores_of_51_stand_at_rank_26(one_of_51):
    assert smoothap(*one_of_51).item() == pytest.approx(1 - 1 / 26, rel=1e-6)
