"""Every feature against plain Python, list by list, with and without padding."""

import math

import pytest
import torch

from rank_xmodal.retrieval.query_bank import TEMPERATURE
from rank_xmodal.scorers.context_aware.features import cosine_features, hubness_features, penalties

SPREAD = 0.05
MISSING = -math.inf


def z_scores(values):
    centre = sum(values) / len(values)
    std = math.sqrt(sum((x - centre) ** 2 for x in values) / len(values))
    return [(x - centre) / std if std > 1e-6 else 0.0 for x in values]


def margins(values):
    """Each value less the best of the others."""
    if len(values) < 2:
        return [0.0] * len(values)
    return [x - max(values[:i] + values[i + 1 :]) for i, x in enumerate(values)]


def reciprocal_ranks(values):
    return [1 / (1 + sum(other > x for other in values)) for x in values]


def hub(near):
    known = [c for c in near if math.isfinite(c)]
    return sum(known) / len(known) if known else 0.0


def soft_maximum(near):
    if not any(math.isfinite(c) for c in near):
        return 0.0  # nothing known is no reason for a bonus
    return TEMPERATURE * math.log(sum(math.exp(c / TEMPERATURE) for c in near if math.isfinite(c)))


def expected_cosine(cosine):
    return list(zip(z_scores(cosine), [m / SPREAD for m in margins(cosine)], reciprocal_ranks(cosine), strict=True))


def expected_hubness(cosine, near):
    columns = [z_scores([hub(n) for n in near])]
    csls = [2 * c - hub(n) for c, n in zip(cosine, near, strict=True)]
    inverted_softmax = [c - soft_maximum(n) for c, n in zip(cosine, near, strict=True)]
    for values in (csls, inverted_softmax):
        columns += [z_scores(values), [m / SPREAD for m in margins(values)], reciprocal_ranks(values)]
    return list(zip(*columns, strict=True))


def expected_penalties(near):
    columns = [[hub(n) for n in near], [soft_maximum(n) for n in near]]
    return list(zip(*([x - sum(column) / len(column) for x in column] for column in columns), strict=True))


LISTS = {
    "distinct": ([0.31, 0.27, 0.22, 0.35], [[0.4, 0.3], [0.25, 0.2], [0.3, 0.1], [0.33, 0.32]]),
    "ties at the top": ([0.5, 0.25, 0.5, 0.125], [[0.4, 0.2], [0.3, 0.3], [0.4, 0.2], [0.0, 0.0]]),
    "ties below": ([0.125, 0.5, 0.125], [[0.4, 0.2], [0.3, 0.3], [0.1, 0.0]]),
    "negative cosines": ([-0.2, -0.1, -0.4], [[-0.1, -0.3], [0.1, -0.2], [0.0, 0.0]]),
    "fewer neighbours than others": ([0.3, 0.2, 0.1], [[0.4, MISSING], [0.3, 0.3], [0.2, 0.1]]),
    "none known": ([0.3, 0.2, 0.1], [[MISSING, MISSING], [0.3, 0.3], [0.2, 0.1]]),
}
padded = pytest.mark.parametrize("padding", [0, 3], ids=["whole", "padded"])
named = pytest.mark.parametrize(("cosine", "near"), LISTS.values(), ids=LISTS)


def tensors(cosine, near, padding):
    """One list as a batch, with `padding` places behind it whose values would stand out."""
    width = len(near[0])
    return (
        torch.tensor([cosine + [9.0] * padding]),
        torch.tensor([near + [[7.0] * width] * padding]),
        torch.tensor([[True] * len(cosine) + [False] * padding]),
    )


def close(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-3, atol=2e-4)


@padded
@named
def test_cosine_block(cosine, near, padding):
    values, _, mask = tensors(cosine, near, padding)
    found = cosine_features(values, mask, SPREAD)[0]
    close(found[: len(cosine)], expected_cosine(cosine))
    assert not found[len(cosine) :].any(), "padding has no features"


@padded
@named
def test_hubness_block(cosine, near, padding):
    values, neighbours, mask = tensors(cosine, near, padding)
    found = hubness_features(values, neighbours, mask, SPREAD)[0]
    close(found[: len(cosine)], expected_hubness(cosine, near))
    assert not found[len(cosine) :].any(), "padding has no features"


@padded
@named
def test_penalties(cosine, near, padding):
    _, neighbours, mask = tensors(cosine, near, padding)
    found = penalties(neighbours, mask)[0]
    close(found[: len(cosine)], expected_penalties(near))
    assert not found[len(cosine) :].any()


def test_lists_of_a_batch_do_not_see_each_other():
    rows = [LISTS["distinct"], LISTS["negative cosines"]]
    cosine = torch.tensor([rows[0][0], [*rows[1][0], 9.0]])
    near = torch.tensor([rows[0][1], [*rows[1][1], [7.0, 7.0]]])
    mask = torch.tensor([[True] * 4, [True] * 3 + [False]])
    for place, (values, neighbours) in enumerate(rows):
        kept = len(values)
        close(cosine_features(cosine, mask, SPREAD)[place, :kept], expected_cosine(values))
        close(hubness_features(cosine, near, mask, SPREAD)[place, :kept], expected_hubness(values, neighbours))
        close(penalties(near, mask)[place, :kept], expected_penalties(neighbours))


def test_padding_in_the_middle_is_passed_over():
    cosine, near = LISTS["distinct"]
    mask = torch.tensor([[True, False, True, True, True]])
    values = torch.tensor([[cosine[0], 9.0, *cosine[1:]]])
    neighbours = torch.tensor([[near[0], [7.0, 7.0], *near[1:]]])
    close(hubness_features(values, neighbours, mask, SPREAD)[mask], expected_hubness(cosine, near))
    close(cosine_features(values, mask, SPREAD)[mask], expected_cosine(cosine))


@padded
def test_a_single_item_is_first_and_nothing_else(padding):
    cosine, near, mask = tensors([0.4], [[0.3, 0.1]], padding)
    close(cosine_features(cosine, mask, SPREAD)[0, 0], [0.0, 0.0, 1.0])
    close(hubness_features(cosine, near, mask, SPREAD)[0, 0], [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    close(penalties(near, mask)[0, 0], [0.0, 0.0])


@padded
def test_a_list_without_spread_has_zeros_and_all_are_first(padding):
    cosine, near, mask = tensors([0.25] * 4, [[0.5, 0.25]] * 4, padding)
    close(cosine_features(cosine, mask, SPREAD)[0, :4], [(0.0, 0.0, 1.0)] * 4)
    close(hubness_features(cosine, near, mask, SPREAD)[0, :4], [(0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0)] * 4)


def test_candidates_without_neighbours_and_lists_of_padding_are_finite():
    cosine, near = torch.tensor([[0.3, 0.1], [0.2, 0.2]]), torch.full((2, 2, 3), MISSING)
    mask = torch.tensor([[True, True], [False, False]])
    assert torch.isfinite(cosine_features(cosine, mask, SPREAD)).all()
    assert torch.isfinite(hubness_features(cosine, near, mask, SPREAD)).all()
    assert torch.isfinite(penalties(near, mask)).all()


def test_csls_column_ranks_as_csls():
    """The hub of the list has the highest cosine; with its hubness off, the other one leads."""
    cosine, near = torch.tensor([[0.30, 0.28]]), torch.tensor([[[0.4, 0.4], [0.2, 0.2]]])
    found = hubness_features(cosine, near, torch.ones(1, 2, dtype=torch.bool), SPREAD)[0]
    close(found[:, 2] * SPREAD, [(0.60 - 0.40) - (0.56 - 0.20), (0.56 - 0.20) - (0.60 - 0.40)])
    close(found[:, 3], [0.5, 1.0])
