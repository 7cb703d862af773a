"""SCAN against loops that build every context, padding, lists and grid, its gates, and gradients where nothing is."""

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from rank_xmodal.evaluation.judging import per_query
from rank_xmodal.lists.bags import Bag
from rank_xmodal.lists.scoring import score_lists
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.scorers.local import scan
from rank_xmodal.scorers.local.pairing import Grid, OfLists
from rank_xmodal.scorers.local.scan import Scan, attention, context_cosine, contexts
from rank_xmodal.scorers.stack import TrainingPart, fit_stack
from rank_xmodal.training.crossfit import inner_folds

CPU = torch.device("cpu")
QUICK = {"width": 16, "steps": 60, "batch_size": 64, "lr": 1e-2, "dropout": 0.1, "without": 0.1}
IMAGES, TEXTS = [4, 6, 3, 1], [2, 5, 1, 4, 3]  # tokens of each
KINDS = [
    {"way": way, "pooling": pooling, "hops": hops}
    for way in ("words", "cells", "both") for pooling in ("mean", "lse") for hops in (1, 3)
]  # fmt: skip


def bags(counts, width, seed=0, extra=0):
    """Return random items with so many tokens each, anywhere among their places, and places of padding behind."""
    draw = torch.Generator().manual_seed(seed)
    most = max(counts)
    order = torch.rand(len(counts), most, generator=draw).argsort(1)
    values = torch.randn(len(counts), most, width, generator=draw)
    mask = order < torch.tensor(counts)[:, None]
    return Bag.of(F.pad(values, (0, 0, 0, extra)), F.pad(mask, (0, extra)))


def network(**values):
    """Return a head away from its start, in evaluation mode."""
    torch.manual_seed(0)
    settings = Scan.Settings(scorer="scan", **{"width": 8, "dropout": 0.0, "without": 0.0, **values})
    head = Scan.head(6, 5, settings)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return head.eval()


def matched(head, cells, words, pairing=None):
    return head.match(head.encode_image(cells), head.encode_text(words), pairing or Grid())


def plain_looks(own, others, sharpness):
    """Return what each token finds, and how alike it is, from lists of vectors: equations 1 to 4 of the paper."""
    close = [[max(0.0, float(F.cosine_similarity(x, y, dim=0))) for y in others] for x in own]
    lengths = [math.sqrt(sum(row[p] ** 2 for row in close)) for p in range(len(others))]
    found, alike = [], []
    for x, row in zip(own, close, strict=True):
        power = [math.exp(sharpness * c / n if n else 0.0) for c, n in zip(row, lengths, strict=True)]
        context = sum(w / sum(power) * y for w, y in zip(power, others, strict=True))
        found.append(context)
        alike.append(float(x @ context) / float(x.norm() * context.norm()))
    return found, alike


def plain_pooled(values, lse):
    if lse is None:
        return sum(values) / len(values)
    return math.log(sum(math.exp(lse * value) for value in values)) / lse


def plain_gate(gate, token, found):
    """Return a token after IMRAM's memory distillation unit."""
    both = torch.cat([token, found])
    weight = torch.cat([gate.own.weight, gate.found.weight], 1)
    share, new = (weight @ both + gate.own.bias).chunk(2)
    share, new = torch.sigmoid(share), torch.tanh(new)
    refined = share * token + (1 - share) * new
    return refined / refined.norm()


def plain_way(own, others, sharpness, lse, gate=None, hops=1):
    total = 0.0
    for hop in range(hops):
        found, alike = plain_looks(own, others, sharpness)
        total += plain_pooled(alike, lse) / hops
        if hop + 1 < hops:
            own = [plain_gate(gate, x, context) for x, context in zip(own, found, strict=True)]
    return total


@torch.no_grad()
@pytest.mark.parametrize("grams", [True, False])
@pytest.mark.parametrize("sharpness", [0.5, 4.0, 9.0, 30.0])
def test_the_gram_form_is_the_cosine_with_contexts_that_are_built(grams, sharpness):
    draw = torch.Generator().manual_seed(1)
    words = F.normalize(torch.randn(3, 5, 16, generator=draw), dim=-1)
    cells = F.normalize(torch.randn(4, 7, 16, generator=draw), dim=-1)
    others = cells @ cells.transpose(1, 2) if grams else cells
    found = context_cosine(Grid().products(words, cells), others[None], sharpness, grams=grams)
    built, mask = attention(Grid().products(words, cells), sharpness), torch.ones(1, 4, 7, dtype=torch.bool)
    built = contexts(built, cells[None], mask)
    for t in range(3):
        for i in range(4):
            vectors, alike = plain_looks(list(words[t]), list(cells[i]), sharpness)
            assert found[t, i].tolist() == pytest.approx(alike, abs=1e-5)
            torch.testing.assert_close(built[t, i], torch.stack(vectors), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("values", KINDS)
def test_it_is_what_loops_find(values):
    head, cells, words = network(**values), bags(IMAGES, 6), bags(TEXTS, 5, seed=1)
    found = matched(head, cells, words)
    seen, read = head.image(cells), head.text(words)
    lse = values["pooling"] == "lse"
    for t in range(len(TEXTS)):
        for i in range(len(IMAGES)):
            one, other = (
                [F.normalize(v, dim=0) for v in bag.values[k][bag.mask[k]]] for bag, k in ((read, t), (seen, i))
            )
            ways = []
            if head.words is not None:
                ways.append(plain_way(one, other, 9.0, 6.0 if lse else None, head.words.gate, values["hops"]))
            if head.cells is not None:
                ways.append(plain_way(other, one, 4.0, 5.0 if lse else None, head.cells.gate, values["hops"]))
            assert float(found[t, i]) == pytest.approx(sum(ways) / len(ways), abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("values", KINDS)
def test_padding_changes_nothing_and_a_batch_of_one_is_no_exception(values):
    head, cells, words = network(**values), bags(IMAGES, 6), bags(TEXTS, 5)
    whole = matched(head, cells, words)
    assert whole.shape == (5, 4)
    assert whole.dtype == torch.float32
    torch.testing.assert_close(matched(head, bags(IMAGES, 6, extra=3), bags(TEXTS, 5, extra=4)), whole)
    for t, i in ((1, 2), (2, 3), (4, 0)):  # the second of one word and one cell
        one = matched(head, cells.take(torch.tensor([i])), words.take(torch.tensor([t])))
        torch.testing.assert_close(one, whole[t : t + 1, i : i + 1])


def test_one_word_and_one_cell_are_compared():
    cells, words = bags([1], 6), bags([1], 5)
    head = network(way="both")
    cosine = F.cosine_similarity(head.image(cells).values[0, 0], head.text(words).values[0, 0], dim=0)
    torch.testing.assert_close(matched(head, cells, words), cosine.view(1, 1))


@torch.no_grad()
@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("values", [*KINDS, {"width": 4}])
def test_lists_say_what_the_grid_says_however_many_at_a_time(values, few, monkeypatch):
    head = network(**values)
    seen, read = head.encode_image(bags(IMAGES, 6)), head.encode_text(bags(TEXTS, 5))
    with torch.enable_grad():
        grid = head.match(seen, read, Grid()).detach()
    if few:
        monkeypatch.setattr(scan, "_IN_CACHE", 1)
    torch.testing.assert_close(head.match(seen, read, Grid()), grid)
    place = torch.tensor([[2, 0], [1, 1], [3, 2], [1, 0], [0, 3]])
    torch.testing.assert_close(head.match(seen, read, OfLists("t2i", place)), grid.gather(1, place))
    place = torch.tensor([[3, 0, 1], [2, 4, 0], [0, 1, 3], [4, 4, 2]])
    torch.testing.assert_close(head.match(seen, read, OfLists("i2t", place)), grid.T.gather(1, place))


@torch.no_grad()
def test_more_cells_than_they_are_wide_have_no_gram_matrix():
    cells, words = bags([7, 9], 6), bags(TEXTS, 5)
    wide, narrow = network(width=9), network(width=8)
    assert wide.encode_image(cells).whole.shape == (2, 81)
    assert narrow.encode_image(cells).whole.shape == (2, 0)
    assert network(width=9, way="cells").encode_image(cells).whole.shape == (2, 0)
    found, (seen, read) = matched(narrow, cells, words), (narrow.image(cells), narrow.text(words))
    one, other = (F.normalize(bag.values[0][bag.mask[0]], dim=-1) for bag in (read, seen))
    wanted = (plain_way(list(one), list(other), 9.0, None) + plain_way(list(other), list(one), 4.0, None)) / 2
    assert float(found[0, 0]) == pytest.approx(wanted, abs=1e-5)


@torch.no_grad()
def test_what_is_kept_of_an_item_can_be_joined_and_taken():
    head = network()
    cells, parts = head.encode_image(bags(IMAGES, 6)), [head.encode_text(bags(counts, 5)) for counts in ([1, 2], [5])]
    joined = Bag.join(parts).take(torch.tensor([2, 0]))
    apart = torch.cat([head.match(cells, part, Grid()) for part in parts])
    torch.testing.assert_close(head.match(cells, joined, Grid()), apart[[2, 0]])


@pytest.mark.parametrize("grams", [True, False])
def test_gradients_of_the_formula(grams):
    def formula(words, cells):
        words, cells = (F.normalize(tokens, dim=-1) for tokens in (words, cells))
        others = cells @ cells.transpose(1, 2) if grams else cells
        return context_cosine(Grid().products(words, cells), others[None], 9.0, grams=grams)

    draw = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((2, 3, 4), (2, 3, 4))]
    assert torch.autograd.gradcheck(formula, [value.requires_grad_() for value in values])


def test_gradients_of_what_is_found():
    def formula(products, tokens):
        return contexts(attention(products, 9.0), tokens, torch.tensor([[[True, False, True]]]))

    draw = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((2, 2, 2, 3), (2, 1, 3, 4))]
    assert torch.autograd.gradcheck(formula, [value.requires_grad_() for value in values])


@pytest.mark.parametrize("values", KINDS)
@pytest.mark.parametrize("side", ["image", "text"])
def test_gradients_are_finite_where_nothing_is_known(values, side):
    """All tokens of a side are zero vectors."""
    head = network(**values).train()
    with torch.no_grad():
        getattr(head, side).map.weight.zero_()
        getattr(head, side).map.bias.zero_()
    loss = matched(head, bags(IMAGES, 6, extra=2), bags(TEXTS, 5, extra=2)).square().sum()
    loss.backward()
    assert bool(torch.isfinite(loss))
    gradients = [p.grad for p in head.parameters() if p.grad is not None]
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def test_contexts_that_cancel_out_are_like_nothing():
    words = F.normalize(torch.tensor([[[0.0, 0.0, 1.0], [0.3, 0.1, 0.0]]]), dim=-1)
    cell = F.normalize(torch.tensor([0.7, -0.33, 0.0]), dim=0)
    cells = torch.stack([cell, -cell])[None].requires_grad_()
    found = context_cosine(Grid().products(words, cells), (cells @ cells.transpose(1, 2))[None], 9.0)
    assert float(found[0, 0, 0].detach()) == pytest.approx(0, abs=1e-3)
    found.sum().backward()
    assert bool(torch.isfinite(cells.grad).all())
    assert float(cells.grad.abs().max()) < 1e4


def test_settings_are_those_of_the_paper_and_checked():
    settings = Scan().settings
    assert (settings.word_sharpness, settings.cell_sharpness, settings.word_lse, settings.cell_lse) == (9, 4, 6, 5)
    assert settings.hops == 1
    for values in ({"way": "pixels"}, {"pooling": "max"}, {"hops": 0}, {"word_sharpness": 51.0}, {"cell_lse": 0.0}):
        with pytest.raises(ValidationError):
            Scan.Settings(scorer="scan", **values)


def test_only_more_than_one_hop_has_gates():
    assert not any("gate" in name for name in network().state_dict())
    assert sum("gate.own.weight" in name for name in network(hops=2).state_dict()) == 2
    assert sum("gate.own.weight" in name for name in network(hops=2, way="cells").state_dict()) == 1


@pytest.mark.parametrize("values", [{}, {"way": "words", "pooling": "lse", "hops": 2}])
def test_it_learns_what_words_and_cells_say(corpus, with_tokens, values):
    for direction in ("t2i", "i2t"):
        folds = inner_folds(with_tokens, 2, 0)
        parts = [TrainingPart(corpus.lists_of(held, direction), rest) for rest, held in folds]
        stack = fit_stack(
            Scan(device="cpu", **QUICK, **values), with_tokens, direction, parts=parts, seed=0, device=CPU
        )
        gallery = rank_gallery(with_tokens, direction, "test")
        found = score_lists(stack.scorer, stack.tensors(with_tokens, gallery.lists, CPU))
        clip = torch.from_numpy(gallery.lists.cosine)
        ours, theirs = (float(per_query(scores, gallery)["MRR"].mean()) for scores in (found, clip))
        assert ours > theirs + 0.05
