"""The ranker, its features and its dropout."""

import math

import pytest
import torch

from rank_xmodal.dropout import dropout
from rank_xmodal.features import cosine_features, hubness_features, penalties
from rank_xmodal.ranker import ContextAwareRanker, ListBatch, RankerConfig

DIM = 12


def batch(lists=3, length=7, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return ListBatch(
        query=torch.randn(lists, DIM, generator=draw),
        candidates=torch.randn(lists, length, DIM, generator=draw),
        cosine=torch.rand(lists, length, generator=draw),
        neighbour_cosine=torch.rand(lists, length, 10, generator=draw).sort(-1, descending=True).values,
        mask=torch.ones(lists, length, dtype=torch.bool),
    )


def trained(**options):
    """Return a ranker whose every parameter has been moved away from its start."""
    torch.manual_seed(1)
    ranker = ContextAwareRanker(RankerConfig(dim=DIM, d_model=16, heads=2, d_ff=24, **options)).eval()
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return ranker


FULL = {}
CONCAT = {"blocks": ("concat",), "residual": False}


@pytest.mark.parametrize("options", [FULL, CONCAT], ids=["full", "concat"])
def test_permuting_a_list_permutes_its_scores(options):
    ranker, lists = trained(**options), batch()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    shuffled = ListBatch(
        lists.query, lists.candidates[:, order], lists.cosine[:, order], lists.neighbour_cosine[:, order], lists.mask
    )
    torch.testing.assert_close(ranker(shuffled), ranker(lists)[:, order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [FULL, CONCAT], ids=["full", "concat"])
def test_padding_changes_no_score(options):
    ranker, lists = trained(**options), batch()
    padded = ListBatch(
        lists.query,
        torch.cat([lists.candidates, torch.full((3, 4, DIM), 9.0)], 1),
        torch.cat([lists.cosine, torch.full((3, 4), 5.0)], 1),
        torch.cat([lists.neighbour_cosine, torch.ones(3, 4, 10)], 1),
        torch.cat([lists.mask, torch.zeros(3, 4, dtype=torch.bool)], 1),
    )
    torch.testing.assert_close(ranker(padded)[:, :7], ranker(lists), rtol=1e-4, atol=1e-5)


def test_an_untrained_ranker_ranks_exactly_as_clip():
    torch.manual_seed(0)
    ranker = ContextAwareRanker(RankerConfig(dim=DIM, d_model=16, heads=2, spread=0.03)).eval()
    lists = batch(50, 51)
    torch.testing.assert_close(ranker(lists), lists.cosine / 0.03)
    assert torch.equal(ranker(lists).argsort(1), lists.cosine.argsort(1))


def test_the_factorised_input_layer_is_the_one_over_the_concatenation():
    ranker, lists = trained(**CONCAT), batch()
    weight = torch.cat([ranker.query_input.weight, ranker.candidate_input.weight], dim=1)
    pair = torch.cat([lists.query[:, None].expand_as(lists.candidates), lists.candidates], dim=-1)
    torch.testing.assert_close(ranker.features(lists), pair @ weight.T + ranker.input_bias, rtol=1e-4, atol=1e-5)


def test_the_papers_sizes():
    ranker = ContextAwareRanker(RankerConfig(dim=512, layers=2, **CONCAT))
    layer = 4 * 64 * 64 + 4 * 64 + 2 * 64 * 128 + 128 + 64 + 4 * 64  # attention, feed-forward, two norms
    assert sum(p.numel() for p in ranker.parameters()) == 1024 * 64 + 64 + 2 * layer + 2 * 64 + 64 + 1


def test_a_list_of_padding_alone_is_finite():
    lists = batch()
    lists.mask[1] = False
    assert torch.isfinite(trained()(lists)).all()


def test_every_parameter_gets_a_gradient():
    ranker, lists = trained(), batch()
    ranker.train()
    (ranker(lists) * torch.randn(3, 7)).sum().backward()
    for name, parameter in ranker.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_attention_with_and_without_dropout_agree_when_nothing_is_dropped(monkeypatch):
    ranker, lists = trained(dropout=0.3), batch()
    lists.mask[0, 5:] = False
    expected = ranker(lists)
    monkeypatch.setattr("rank_xmodal.ranker.dropout", lambda x, rate: x)
    ranker.train()
    torch.testing.assert_close(ranker(lists)[lists.mask], expected[lists.mask], rtol=1e-4, atol=1e-5)


def test_features_equal_a_plain_computation():
    cosine = torch.tensor([[0.5, 0.3, 0.5, 0.1, 9.0]])
    near = torch.tensor([[[0.4, 0.2], [0.1, -math.inf], [0.3, 0.3], [0.0, 0.0], [7.0, 7.0]]])
    mask = torch.tensor([[True, True, True, True, False]])
    kept = [0.5, 0.3, 0.5, 0.1]
    centre = sum(kept) / 4
    std = math.sqrt(sum((x - centre) ** 2 for x in kept) / 4)
    z, margin, rank = cosine_features(cosine, mask, 0.1)[0, :4].T
    torch.testing.assert_close(z, torch.tensor([(x - centre) / std for x in kept]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(margin, torch.tensor([0.0, -2.0, 0.0, -4.0]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rank, torch.tensor([1.0, 1 / 3, 1.0, 1 / 4]))
    hub = [0.3, 0.1, 0.3, 0.0]
    csls = [2 * c - h for c, h in zip(kept, hub, strict=True)]
    features = hubness_features(cosine, near, mask, 0.1)[0, :4]
    torch.testing.assert_close(
        features[:, 2], torch.tensor([0.0, (csls[1] - csls[0]) / 0.1, 0.0, (csls[3] - csls[0]) / 0.1])
    )
    taken = penalties(near, mask)[0, :4]
    torch.testing.assert_close(taken[:, 0], torch.tensor([h - sum(hub) / 4 for h in hub]))
    soft = 0.02 * math.log(math.exp(0.4 / 0.02) + math.exp(0.2 / 0.02))
    difference = soft - 0.02 * math.log(2 * math.exp(0.3 / 0.02))
    assert float(taken[0, 1] - taken[2, 1]) == pytest.approx(difference, abs=1e-5)


@pytest.mark.parametrize("cosine", [[[0.4]], [[0.2, 0.2, 0.2]]], ids=["one item", "no spread"])
def test_features_without_spread_are_finite(cosine):
    cosine = torch.tensor(cosine)
    mask = torch.ones_like(cosine, dtype=torch.bool)
    near = torch.full((*cosine.shape, 3), -math.inf)
    assert torch.isfinite(cosine_features(cosine, mask, 0.1)).all()
    assert torch.isfinite(hubness_features(cosine, near, mask, 0.1)).all()


@pytest.mark.parametrize("shape", [(1,), (7,), (64, 4, 51, 51)])
def test_dropout_keeps_the_expectation_and_its_gradient(shape):
    torch.manual_seed(0)
    x = torch.full(shape, 2.0, requires_grad=True)
    y = dropout(x, 0.1)
    y.sum().backward()
    kept = 256 / 230
    assert set(y.detach().reshape(-1).tolist()) <= {0.0, torch.tensor(2.0 * kept).item()}
    torch.testing.assert_close(x.grad, y.detach() / 2)
    if y.numel() > 1_000:
        assert float((y.detach() == 0).float().mean()) == pytest.approx(26 / 256, abs=0.002)
        assert float(y.detach().mean()) == pytest.approx(2.0, abs=0.01)


def test_dropout_repeats_with_the_seed():
    x = torch.ones(1_000)
    torch.manual_seed(3)
    first = dropout(x, 0.5)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5), first)
    assert not torch.equal(dropout(x, 0.5), first)
    assert dropout(x, 0.0) is x
