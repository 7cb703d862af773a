"""The ranker: what its scores must not depend on, where it starts, and its sizes."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rank_xmodal.scorers.context_aware.features import cosine_features, hubness_features, penalties
from rank_xmodal.scorers.context_aware.ranker import (
    ALL_BLOCKS,
    ContextAwareRanker,
    EncoderLayer,
    ListBatch,
    RankerConfig,
)

DIM = 12
CONCAT = {"blocks": ("concat",), "residual": False}
BLOCKS = {
    "full": {},
    "concat": CONCAT,
    "scalars alone": {"blocks": ("cosine", "hubness")},
    "bilinear": {"blocks": ALL_BLOCKS},
    "no hubness": {"blocks": ("concat", "product", "cosine")},
    "two layers": {"layers": 2},
    "no layer": {"layers": 0},
}
every_kind = pytest.mark.parametrize("options", BLOCKS.values(), ids=BLOCKS)


def ranker_of(**options):
    return ContextAwareRanker(
        RankerConfig(**{"dim": DIM, "d_model": 16, "heads": 2, "d_ff": 24, "layers": 1, **options})
    )


def trained(**options):
    """Return a ranker whose every parameter has been moved away from its start."""
    torch.manual_seed(1)
    ranker = ranker_of(**options).eval()
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return ranker


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


# --- what a score must not depend on ---


@every_kind
def test_permuting_a_list_permutes_its_scores(corpus, options):
    ranker, lists = trained(**options), corpus.random_batch()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    shuffled = ListBatch(
        lists.query, lists.candidates[:, order], lists.cosine[:, order], lists.neighbour_cosine[:, order], lists.mask
    )
    close(ranker(shuffled), ranker(lists)[:, order])


@every_kind
def test_padding_changes_no_score(corpus, options):
    ranker, lists = trained(**options), corpus.random_batch()
    close(ranker(corpus.pad(lists))[:, :7], ranker(lists))


@every_kind
def test_a_list_does_not_see_the_others_of_its_batch(corpus, options):
    ranker, lists = trained(**options), corpus.random_batch()
    whole = ranker(lists)
    lists.mask[1, 4:] = False  # and of another length than they are
    assert not torch.allclose(ranker(lists)[1, :4], whole[1, :4], atol=1e-4) or options.get("layers") == 0
    close(ranker(lists)[[0, 2]], whole[[0, 2]])


@pytest.mark.parametrize("options", [{}, CONCAT], ids=["full", "concat"])
def test_a_score_does_depend_on_the_rest_of_the_list(corpus, options):
    """Context-aware: without this, the tests above would hold of a ranker that looks at single pairs."""
    ranker, lists = trained(**options), corpus.random_batch()
    before = ranker(lists)
    lists.candidates[:, 6] += 1.0
    assert (ranker(lists)[:, :6] - before[:, :6]).abs().min() > 1e-5


def test_a_list_of_padding_alone_is_finite_and_leaves_the_others_alone(corpus):
    ranker, lists = trained(), corpus.random_batch()
    expected = ranker(lists)
    lists.mask[1] = False
    found = ranker(lists)
    assert torch.isfinite(found).all()
    close(found[[0, 2]], expected[[0, 2]])
    ranker.train()
    ranker(lists).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in ranker.parameters())


# --- where it starts ---


@pytest.mark.parametrize("spread", [0.03, 0.25])
def test_an_untrained_ranker_is_clip(corpus, spread):
    torch.manual_seed(0)
    ranker, lists = ranker_of(spread=spread).eval(), corpus.random_batch(50, 51)
    lists.cosine[:, 1] = lists.cosine[:, 0]  # ties stay ties
    assert torch.equal(ranker(lists), lists.cosine / spread)
    by_score = ranker(lists).argsort(dim=1, descending=True, stable=True)
    assert torch.equal(by_score, lists.cosine.argsort(dim=1, descending=True, stable=True))


def test_the_first_stage_score_is_weighted_and_the_penalties_taken_off(corpus):
    ranker, lists = ranker_of(spread=0.05).eval(), corpus.random_batch()
    with torch.no_grad():
        ranker.residual_weight.fill_(2.0)
        ranker.penalty_weight.copy_(torch.tensor([0.01, 0.03]))
    found, taken = ranker(lists), penalties(lists.neighbour_cosine, lists.mask)
    for b in range(3):
        for i in range(7):
            off = 20 * (0.01 * float(taken[b, i, 0]) + 0.03 * float(taken[b, i, 1]))
            assert found[b, i].item() == pytest.approx((2 * float(lists.cosine[b, i]) - off) / 0.05, abs=1e-3)


def test_it_can_become_csls(corpus):
    """2 cosine - hubness, but for a constant in the list."""
    ranker, lists = ranker_of().eval(), corpus.random_batch()
    with torch.no_grad():
        ranker.residual_weight.fill_(2.0)
        ranker.penalty_weight.copy_(torch.tensor([1 / 20, 0.0]))
    csls = 2 * lists.cosine - lists.neighbour_cosine.mean(-1)
    assert torch.equal(ranker(lists).argsort(1), csls.argsort(1))


def test_the_papers_recipe_has_no_first_stage_score(corpus):
    ranker, lists = trained(**CONCAT), corpus.random_batch()
    assert ranker.residual_weight is None
    assert ranker.penalty_weight is None
    before = ranker(lists)
    lists.cosine, lists.neighbour_cosine = torch.rand(3, 7), torch.rand(3, 7, 10)
    assert torch.equal(ranker(lists), before)


# --- its layers ---


def test_the_factorised_input_layer_is_the_one_over_the_concatenation(corpus):
    ranker, lists = trained(**CONCAT), corpus.random_batch()
    plain = nn.Linear(2 * DIM, 16)
    with torch.no_grad():
        plain.weight.copy_(torch.cat([ranker.query_input.weight, ranker.candidate_input.weight], dim=1))
        plain.bias.copy_(ranker.input_bias)
    found = ranker.features(lists)
    for b in range(3):
        for i in range(7):
            close(found[b, i], plain(torch.cat([lists.query[b], lists.candidates[b, i]])))


def test_the_input_of_all_blocks_is_the_sum_of_theirs(corpus):
    ranker, lists = trained(), corpus.random_batch()
    scalars = torch.cat(
        [
            cosine_features(lists.cosine, lists.mask, 0.03),
            hubness_features(lists.cosine, lists.neighbour_cosine, lists.mask, 0.03),
        ],
        dim=-1,
    )
    found = ranker.features(lists)
    for b in range(3):
        for i in range(7):
            q, c = lists.query[b], lists.candidates[b, i]
            expected = ranker.query_input.weight @ q + ranker.candidate_input.weight @ c + ranker.input_bias
            expected = (
                expected
                + ranker.product_input.weight @ (math.sqrt(DIM) * q * c)
                + ranker.scalar_input.weight @ scalars[b, i]
            )
            close(found[b, i], expected)


def test_an_encoder_layer_is_a_pre_norm_transformer_layer():
    """Attention place by place and head by head, in plain loops."""
    torch.manual_seed(0)
    layer, x = EncoderLayer(8, 2, 12, 0.5).eval(), torch.randn(1, 5, 8)
    kept = [0, 1, 3]
    mask = torch.tensor([[place in kept for place in range(5)]])
    normed = F.layer_norm(x[0], (8,))
    q, k, v = (layer.qkv.weight @ normed.T + layer.qkv.bias[:, None]).T.split(8, dim=1)
    mixed = torch.zeros(5, 8)
    for head in (slice(0, 4), slice(4, 8)):
        for i in range(5):
            weight = [math.exp(float(q[i, head] @ k[j, head]) / 2.0) for j in kept]
            for j, w in zip(kept, weight, strict=True):
                mixed[i, head] += w / sum(weight) * v[j, head]
    after = x[0] + mixed @ layer.out.weight.T + layer.out.bias
    hidden = (F.layer_norm(after, (8,)) @ layer.up.weight.T + layer.up.bias).clamp(min=0)
    close(layer(x, mask)[0], after + hidden @ layer.down.weight.T + layer.down.bias)


def test_the_two_ways_of_attention_agree_when_nothing_is_dropped(corpus, monkeypatch):
    """On a CPU, training goes through sums of our own, evaluation of long lists through PyTorch's kernel."""
    monkeypatch.setattr("rank_xmodal.scorers.context_aware.ranker._SHORT", 0)
    ranker, lists = trained(dropout=0.3), corpus.pad(corpus.random_batch())
    lists.mask[0, 5:] = False
    expected = ranker(lists)
    calls = []

    def all_kept(shape, rate):
        calls.append((shape[-1], rate))
        return None, 1.0

    monkeypatch.setattr("rank_xmodal.scorers.context_aware.dropout.kept", all_kept)
    monkeypatch.setattr("rank_xmodal.scorers.context_aware.attention.kept", all_kept)
    ranker.train()
    close(ranker(lists)[lists.mask], expected[lists.mask])
    assert (lists.mask.shape[1], 0.3) in calls, "attention weights were dropped by our own function"


def test_dropout_is_for_training_alone_and_keeps_the_mean(corpus):
    ranker, lists = trained(dropout=0.1), corpus.random_batch(1)
    assert torch.equal(ranker(lists), ranker(lists))
    layer, x = ranker.encoder[0], torch.randn(1, 7, 16)
    layer.out.weight.data.mul_(1 / 4)
    seen = []
    layer.register_forward_hook(lambda module, args, out: seen.append(out))
    layer.eval()
    layer(x, None)
    layer.train()
    torch.manual_seed(0)
    attention_alone = copy.deepcopy(layer)
    nn.init.zeros_(attention_alone.down.weight)
    nn.init.zeros_(attention_alone.down.bias)
    with torch.no_grad():
        many = attention_alone(x.expand(20_000, -1, -1), None)
        expected = attention_alone.eval()(x, None)[0]
    assert many.std(0).min() > 0
    error = many.std(0) / math.sqrt(len(many))
    assert ((many.mean(0) - expected).abs() < 6 * error).all(), "linear in what is dropped, so the mean stays"


@every_kind
def test_every_parameter_gets_a_gradient(corpus, options):
    ranker, lists = trained(**options), corpus.random_batch()
    ranker.train()
    torch.manual_seed(0)
    (ranker(lists) * torch.randn(3, 7)).sum().backward()
    for name, parameter in ranker.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_an_untrained_ranker_can_learn(corpus):
    """Its last layer is zero, so the gradient must reach that layer first."""
    ranker, lists = ranker_of(), corpus.random_batch()
    F.cross_entropy(ranker(lists), torch.zeros(3, dtype=torch.long)).backward()
    assert ranker.output.weight.grad.abs().sum() > 0
    assert ranker.residual_weight.grad != 0
    assert (ranker.penalty_weight.grad != 0).all()


# --- sizes ---


def test_the_papers_sizes():
    ranker = ContextAwareRanker(RankerConfig(dim=512, layers=2, **CONCAT))
    layer = 4 * 64 * 64 + 4 * 64 + 2 * 64 * 128 + 128 + 64 + 4 * 64  # attention, feed-forward, two norms
    assert sum(p.numel() for p in ranker.parameters()) == 1024 * 64 + 64 + 2 * layer + 2 * 64 + 64 + 1


def test_it_is_as_large_as_allranks_model():
    pytest.importorskip("allrank.models.model")
    from rank_xmodal.scorers.allrank import AllRankRanker

    config = RankerConfig(dim=40, layers=2, **CONCAT)
    ours, theirs = ContextAwareRanker(config), AllRankRanker(config)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_scores_are_float32(corpus, kind):
    ranker, lists = ranker_of().eval(), corpus.random_batch()
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bfloat16"):
        scores = ranker(lists)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, lists.cosine / 0.03), "the first stage's score is never rounded"


def test_the_bilinear_block_is_the_corrected_cosine_though_no_candidate_is_mapped(corpus):
    torch.manual_seed(0)
    model = ContextAwareRanker(RankerConfig(dim=DIM, blocks=("bilinear",), layers=0, spread=1.0))
    for low_rank in (model.query_map, model.candidate_map):
        nn.init.normal_(low_rank.up.weight)
    lists = corpus.random_batch()
    query = lists.query + model.query_map(lists.query)
    corrected = torch.einsum("bld,bd->bl", lists.candidates + model.candidate_map(lists.candidates), query)
    expected = lists.cosine + corrected - torch.einsum("bld,bd->bl", lists.candidates, lists.query)
    close(model(lists), expected)
    weights = [*model.query_map.parameters(), *model.candidate_map.parameters()]
    for found, wanted in zip(
        *(torch.autograd.grad(scores.sigmoid().sum(), weights) for scores in (model(lists), expected)), strict=True
    ):
        close(found, wanted)


@every_kind
def test_a_corpus_projected_once_gives_the_same_scores(corpus, options):
    ranker, lists = trained(**options), corpus.random_batch()
    known = ranker.project(lists.candidates.flatten(0, 1), block=5)
    if known is None:
        assert "concat" not in ranker.config.blocks
        return
    close(ranker(replace(lists, projected=known.unflatten(0, lists.cosine.shape))), ranker(lists))
