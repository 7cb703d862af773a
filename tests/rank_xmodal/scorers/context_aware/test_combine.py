"""The linear part: what it starts from, and that a loss that takes its time learns the same on shorter lists."""

import numpy as np
import pytest
import torch

from rank_xmodal import losses
from rank_xmodal.scorers.context_aware.combine import combine
from rank_xmodal.scorers.context_aware.evidence import FEATURES, of_scores
from rank_xmodal.scorers.context_aware.features import centred


def lists(count=600, length=51, relevant=3, seed=0):
    """Lists of which one relevant item has a higher score of every kind, and the others none at all."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.zeros(count, length, dtype=torch.int8)
    labels[:, :relevant] = 1
    signal = torch.randn(count, length, 1, generator=draw)
    signal[:, 0] += 1.2
    features = signal + 2.0 * torch.randn(count, length, len(FEATURES), generator=draw)
    return features, labels, np.arange(count) % 5, np.arange(count)


def hit(found, features, labels):
    scores = centred(features, labels >= 0) @ found.weight
    return float((labels.gather(1, scores.argmax(1, keepdim=True)) > 0).float().mean())


@pytest.mark.parametrize("loss", ["listnet", "lambdarank", "neuralndcg", "ranknet", "approxndcg"])
def test_every_loss_learns_from_lists_with_several_relevant_items(loss):
    """Forced into a shorter list, relevant items of a low base taught that a low base is good: R@1 fell to 1 %."""
    given = lists()
    found = combine(*given, loss, losses.get(loss), of_scores(None))
    base = combine(*given, "listnet", lambda scores, labels: scores.sum() * 0, of_scores(None))
    assert base.penalty == float("inf")
    features, labels, _, _ = lists(seed=1)
    assert hit(found, features, labels) >= hit(base, features, labels) + 0.02
    assert (found.weight[[FEATURES.index("cosine, CSLS"), FEATURES.index("vsepp, CSLS")]] > 0).all()


@pytest.mark.parametrize("names", [["gaussian"], ["cosine", "vsepp"]])
def test_scores_that_are_left_out_have_no_weight(names):
    given = lists(count=100)
    found = combine(*given, "listnet", losses.get("listnet"), of_scores(names))
    used = {feature.split(", ")[0] for feature, weight in zip(FEATURES, found.weight.tolist(), strict=True) if weight}
    assert used == set(names)


def test_a_list_is_centred_without_its_padding():
    features = torch.randn(2, 5, len(FEATURES))
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    found = centred(features, mask)
    torch.testing.assert_close(found[1, :3], features[1, :3] - features[1, :3].mean(0))
    assert found[1, 3:].abs().sum() == 0


def cut(found, count):
    features, labels, fold, group = found
    return features[:count], labels[:count], fold[:count], group[:count]


@pytest.mark.parametrize(
    ("count", "better", "safe"), [(100, False, True), (100, True, False), (600, True, False), (600, False, True)]
)
def test_of_few_lists_the_base_is_csls_unless_the_mean_is_clearly_better(count, better, safe):
    """At 600 lists CSLS has to show that it is better; at 100 the mean of three has to."""
    features, labels, fold, group = cut(lists(relevant=1), count)
    if not better:  # nothing but CSLS says anything
        for name in ("convex, strong, CSLS", "convex, weak, CSLS", "vsepp, CSLS"):
            features[..., FEATURES.index(name)] = features[..., FEATURES.index("cosine, CSLS")] + 6 * torch.randn(
                labels.shape, generator=torch.Generator().manual_seed(3)
            )
    nothing = combine(
        features, labels, fold, group, "listnet", lambda scores, labels: scores.sum() * 0, of_scores(None)
    )
    assert (nothing.weight[FEATURES.index("vsepp, CSLS")] == 0) == safe
    assert nothing.weight[FEATURES.index("cosine, CSLS")] > 0
