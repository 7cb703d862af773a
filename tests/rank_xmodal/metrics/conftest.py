"""Lists for the metrics, and a plain Python reading of what a rank is."""

from types import SimpleNamespace

import pytest
import torch


def order(scores, labels):
    """Labels of one list from the highest score to the lowest, ties by rising label, padding left out."""
    items = [(s, y) for s, y in zip(scores, labels, strict=True) if y >= 0]
    return [y for _, y in sorted(items, key=lambda item: (-item[0], item[1]))]


def random_lists(seed, ties=False, graded=False):
    """40 lists of 12 with padding anywhere, some of them without a relevant item; without ties all scores differ."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(40, 12, generator=generator).argsort(1).double()
    if ties:
        scores = (scores / 4).floor()
    labels = torch.randint(-1, 4 if graded else 2, (40, 12), generator=generator)
    labels[:5] = labels[:5].clamp(max=0)
    return scores, labels


def every_position():
    """51 lists of 51 candidates, the relevant one at each rank once: their mean is that of a random order."""
    return -torch.arange(51.0).repeat(51, 1), torch.eye(51, dtype=torch.int8)


@pytest.fixture
def lists():
    """The helpers above."""
    return SimpleNamespace(order=order, random=random_lists, every_position=every_position)


@pytest.fixture(params=["distinct", "tied", "graded", "graded and tied"])
def sample(request):
    """Scores and labels of 40 lists, and the labels of each in ranked order."""
    scores, labels = random_lists(7, ties="tied" in request.param, graded="graded" in request.param)
    ranked = [order(s, y) for s, y in zip(scores.tolist(), labels.tolist(), strict=True)]
    return SimpleNamespace(scores=scores, labels=labels, ranked=ranked)
