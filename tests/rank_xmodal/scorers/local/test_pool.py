"""Pooling: the weighted sorting against plain loops, its special cases, padding, and what a head makes of it."""

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from rank_xmodal import scorers
from rank_xmodal.evaluation.judging import per_query
from rank_xmodal.lists.bags import Bag
from rank_xmodal.lists.scoring import score_lists
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.scorers.local.network import mean_of
from rank_xmodal.scorers.local.pairing import Grid, OfLists
from rank_xmodal.scorers.local.pool import (
    Attention,
    Pool,
    PositionWeights,
    largest,
    masked_softmax,
    pooled_by_rank,
    self_attention,
    sinusoids,
)
from rank_xmodal.scorers.stack import TrainingPart, fit_stack
from rank_xmodal.training.crossfit import inner_folds

CPU = torch.device("cpu")
QUICK = {"width": 16, "steps": 60, "batch_size": 64, "lr": 1e-2, "dropout": 0.1, "without": 0.1}
KINDS = [{}, {"pooling": "mean"}, {"pooling": "max"}, {"pooling": "kmax", "k": 2}, {"attention": True}]


def bags(counts, width, seed=0, extra=0):
    """Return random items with so many tokens each, and places of padding behind."""
    draw = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(counts) + extra) < torch.tensor(counts)[:, None]
    values = torch.randn(len(counts), max(counts), width, generator=draw)
    return Bag.of(F.pad(values, (0, 0, 0, extra)), mask)


def network(seed=0, spread=0.5, **values):
    """Return a head away from its start (by `spread`), in evaluation mode."""
    torch.manual_seed(seed)
    found = Pool.head(6, 5, Pool.Settings(scorer="pool", width=8, **values))
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(torch.randn_like(parameter) * spread)
    return found.eval()


def plain_pooling(tokens, weights):
    """Return the pooling of one item's tokens, lists of numbers."""
    found = []
    for values in zip(*tokens, strict=True):
        ordered = sorted(values, reverse=True)
        found.append(sum(w * x for w, x in zip(weights, ordered, strict=False)))
    return found


def test_it_equals_a_plain_loop_wherever_the_padding_is():
    draw = torch.Generator().manual_seed(1)
    values, weights = torch.randn(4, 5, 3, generator=draw), torch.rand(4, 5, generator=draw)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 0, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    found = pooled_by_rank(values, mask, weights)
    for row in range(3):
        wanted = plain_pooling(values[row][mask[row]].tolist(), weights[row].tolist())
        assert found[row].tolist() == pytest.approx(wanted, abs=1e-5)
    assert found[3].tolist() == [0, 0, 0]


def test_mean_max_and_kmax_are_special_cases():
    tokens = bags([4, 2, 6], 5)
    count = tokens.mask.sum(1)

    def pooled(k):
        return pooled_by_rank(tokens.values, tokens.mask, largest(count, 6, k))

    for row, n in enumerate(count.tolist()):
        own = tokens.values[row, :n]
        torch.testing.assert_close(pooled(None)[row], own.mean(0))
        torch.testing.assert_close(pooled(1)[row], own.amax(0), rtol=0, atol=0)
        torch.testing.assert_close(pooled(3)[row], own.topk(min(3, n), 0).values.mean(0))


def test_sinusoids_are_those_of_the_paper():
    found = sinusoids(7, 4)
    for p in range(7):
        slow = p / 10_000**0.5
        assert found[p].tolist() == pytest.approx([math.sin(p), math.cos(p), math.sin(slow), math.cos(slow)], abs=1e-6)


def test_learnt_weights_start_as_the_mean_and_depend_on_the_number_alone():
    torch.manual_seed(0)
    module, count = PositionWeights(), torch.tensor([3, 1, 5, 3])
    torch.testing.assert_close(module(count, 6), largest(count, 6, None))
    torch.nn.init.normal_(module.score.weight)
    found = module(count, 6)
    torch.testing.assert_close(found.sum(1), torch.ones(4))
    assert torch.equal(found[0], found[3])
    torch.testing.assert_close(module(count[:2], 9)[:, :6], found[:2])
    assert found[0].unique().numel() == 4  # three weights, and 0 behind them
    assert module(torch.tensor([0]), 0).shape == (1, 0)


def test_the_gru_reads_both_ways_over_the_item_alone():
    """Against the GRU on one sequence at a time, without packing."""
    torch.manual_seed(0)
    module = PositionWeights()
    torch.nn.init.normal_(module.score.weight)
    found = module(torch.tensor([2, 5]), 5)
    for row, n in enumerate((2, 5)):
        states = module.gru(sinusoids(n, 32)[None])[0][0]
        logits = (states[:, :32] + states[:, 32:]) / 2 @ module.score.weight[0] / 0.1
        torch.testing.assert_close(found[row, :n], logits.softmax(0))


def test_a_softmax_over_nothing_is_zero():
    logits = torch.randn(2, 3, requires_grad=True)
    found = masked_softmax(logits, torch.tensor([[True, False, True], [False] * 3]))
    torch.testing.assert_close(found[0, [0, 2]], logits[0, [0, 2]].softmax(0))
    assert found[1].tolist() == [0, 0, 0]
    found.square().sum().backward()
    assert bool(torch.isfinite(logits.grad).all())


def test_attention_equals_a_plain_loop_and_starts_as_the_identity():
    draw = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(2, 4, 3, generator=draw) for _ in range(3))
    mask = torch.tensor([[True, True, False, True], [True, False, False, False]])
    found = self_attention(q, k, v, mask)
    for row in range(2):
        there = mask[row].nonzero()[:, 0].tolist()
        for t in range(4):
            power = [math.exp(float(q[row, t] @ k[row, u]) / math.sqrt(3)) for u in there]
            wanted = sum(p * v[row, u] for p, u in zip(power, there, strict=True)) / sum(power)
            torch.testing.assert_close(found[row, t], wanted)
    tokens = bags([3, 2], 8)
    assert torch.equal(Attention(8)(tokens).values, tokens.values)


def test_gradients_of_the_formulas():
    draw = torch.Generator().manual_seed(3)
    values = torch.randn(2, 4, 3, dtype=torch.float64, generator=draw, requires_grad=True)
    weights = torch.rand(2, 4, dtype=torch.float64, generator=draw, requires_grad=True)
    mask = torch.tensor([[True, False, True, True], [True, True, False, False]])
    assert torch.autograd.gradcheck(lambda v, w: pooled_by_rank(v, mask, w), (values, weights))
    assert torch.autograd.gradcheck(lambda v: self_attention(v, 2 * v, v, mask), (values,))


@pytest.mark.parametrize("values", [{}, {"pooling": "mean"}, {"attention": True}])
def test_its_start_is_the_cosine_of_the_means(values):
    head, cells, words = network(spread=0, **values), bags([4] * 3, 6), bags([2, 5], 5)
    found = head.match(head.encode_image(cells), head.encode_text(words), Grid())
    image, text = (F.normalize(mean_of(side(bag)), dim=-1) for side, bag in ((head.image, cells), (head.text, words)))
    torch.testing.assert_close(found, text @ image.T)


@pytest.mark.parametrize("values", KINDS)
def test_padding_changes_nothing_and_a_batch_of_one_is_no_exception(values):
    head = network(**values)
    images, texts = [4, 6, 3], [2, 5]
    whole = head.match(head.encode_image(bags(images, 6)), head.encode_text(bags(texts, 5)), Grid())
    assert whole.shape == (2, 3)
    wide = head.match(head.encode_image(bags(images, 6, extra=3)), head.encode_text(bags(texts, 5, extra=4)), Grid())
    torch.testing.assert_close(wide, whole)
    one = head.match(head.encode_image(bags(images, 6).take(torch.tensor([2]))),
                     head.encode_text(bags(texts, 5).take(torch.tensor([1]))), Grid())  # fmt: skip
    torch.testing.assert_close(one, whole[1:, 2:])


def test_lists_say_what_the_grid_says():
    head = network()
    seen, read = head.encode_image(bags([4, 6, 3], 6)), head.encode_text(bags([2, 5, 1, 4], 5))
    grid = head.match(seen, read, Grid())
    place = torch.tensor([[2, 0], [1, 1], [0, 2], [1, 0]])
    found = head.match(seen, read, OfLists("t2i", place))
    torch.testing.assert_close(found, grid.gather(1, place))
    place = torch.tensor([[3, 0, 1], [2, 2, 0], [0, 1, 3]])
    torch.testing.assert_close(head.match(seen, read, OfLists("i2t", place)), grid.T.gather(1, place))


def test_what_is_kept_of_an_item_can_be_joined_and_taken():
    head = network()
    parts = [head.encode_text(bags(counts, 5)) for counts in ([2, 5], [1])]
    joined = Bag.join(parts)
    assert joined.values.shape == (3, 0, 8)
    assert torch.equal(joined.take(torch.tensor([2, 0])).whole, torch.cat([parts[1].whole, parts[0].whole[:1]]))
    torch.testing.assert_close(joined.whole.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("values", KINDS)
def test_gradients_are_finite_where_nothing_is_known(values):
    """An item without tokens, and one whose tokens are all zero."""
    head = network(**values).train()
    cells, words = bags([4, 6, 3], 6), bags([2, 5], 5)
    cells, words = (Bag.of(bag.values, bag.mask & (torch.arange(len(bag)) > 0)[:, None]) for bag in (cells, words))
    with torch.no_grad():
        head.image.map.weight.zero_()
        head.image.map.bias.zero_()
    head.match(head.encode_image(cells), head.encode_text(words), Grid()).square().sum().backward()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in head.parameters())


@pytest.mark.parametrize("values", [{"pooling": "median"}, {"k": 0}])
def test_settings_are_checked(values):
    with pytest.raises(ValidationError):
        Pool.Settings(scorer="pool", **values)


@pytest.mark.parametrize("values", [{}, {"pooling": "kmax", "k": 2, "attention": True}])
def test_it_learns_what_words_and_cells_say(corpus, with_tokens, values):
    for direction in ("t2i", "i2t"):
        parts = [TrainingPart(corpus.lists_of(held, direction), rest) for rest, held in inner_folds(with_tokens, 2, 0)]
        scorer = scorers.get("pool", device="cpu", **QUICK, **values)
        stack = fit_stack(scorer, with_tokens, direction, parts=parts, seed=0, device=CPU)
        gallery = rank_gallery(with_tokens, direction, "test")
        found = score_lists(stack.scorer, stack.tensors(with_tokens, gallery.lists, CPU))
        ours, clip = (
            float(per_query(s, gallery)["MRR"].mean()) for s in (found, torch.from_numpy(gallery.lists.cosine))
        )
        assert ours > clip + 0.05
