"""SGRAF against loops over nodes, padding, lists and grid, its memory, and gradients where nothing is."""

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
from rank_xmodal.scorers.local.sgraf import Sgraf, filtered, reasoned, similarity_vectors
from rank_xmodal.scorers.stack import TrainingPart, fit_stack
from rank_xmodal.training.crossfit import inner_folds

CPU = torch.device("cpu")
QUICK = {
    "width": 16, "steps": 60, "batch_size": 64, "lr": 1e-2, "dropout": 0.1, "without": 0.1,
    "similarity_width": 16,
}  # fmt: skip
IMAGES, TEXTS = [4, 6, 3, 1], [2, 5, 1, 4, 3]  # tokens of each
KINDS = [{"module": module} for module in ("saf", "sgr", "both")]


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
    small = {"width": 8, "similarity_width": 7, "dropout": 0.0, "without": 0.0}
    head = Sgraf.head(6, 5, Sgraf.Settings(scorer="sgraf", **{**small, **values}))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.4)
    return head.eval()


def matched(head, cells, words, pairing=None):
    return head.match(head.encode_image(cells), head.encode_text(words), pairing or Grid())


def unit(vector):
    return vector / vector.norm()


def plain_softmax(values):
    power = [math.exp(float(value)) for value in values]
    return [value / sum(power) for value in power]


def weighted(weights, vectors):
    return sum(weight * vector for weight, vector in zip(weights, vectors, strict=True))


def plain_whole(module, tokens):
    """Return an item's global vector: an attention over its tokens that their mean asks for."""
    mean = sum(tokens) / len(tokens)
    asks = torch.tanh(module.mean.weight @ mean + module.mean.bias)
    common = [torch.tanh(module.token.weight @ token + module.token.bias) * asks for token in tokens]
    return unit(weighted(plain_softmax([module.weight.weight[0] @ c + module.weight.bias[0] for c in common]), tokens))


def plain_vector(module, a, b):
    difference = (a - b) * (a - b)
    return unit(torch.stack([sum(row * difference) + w for row, w in zip(module.weight, module.bias, strict=True)]))


def plain_nodes(head, words, cells):
    """Return the similarity vectors of a pair, the global one first; words attend to cells as in SCAN."""
    close = [[max(0.0, float(word @ cell)) for cell in cells] for word in words]
    lengths = [math.sqrt(sum(row[p] ** 2 for row in close)) for p in range(len(cells))]
    whole = plain_whole(head.image_whole, cells), plain_whole(head.text_whole, words)
    nodes = [plain_vector(head.wholes, *whole)]
    for word, row in zip(words, close, strict=True):
        weights = plain_softmax([9.0 * c / n if n else 0.0 for c, n in zip(row, lengths, strict=True)])
        nodes.append(plain_vector(head.words, unit(weighted(weights, cells)), word))
    return nodes


def plain_reasoning(module, nodes):
    for step in range(3):
        into, out, update = module.into[step], module.out[step], module.update[step]
        edges = [plain_softmax([(into @ p) @ (out @ q) for q in nodes]) for p in nodes]
        nodes = [torch.relu(update @ weighted(edge, nodes)) for edge in edges]
    return float(module.similarity.weight[0] @ nodes[0] + module.similarity.bias[0])


def plain_filtration(module, nodes):
    relevance = [float(torch.sigmoid(module.relevance.weight[0] @ s + module.relevance.bias[0])) for s in nodes]
    found = unit(weighted([r / sum(relevance) for r in relevance], nodes))
    return float(module.similarity.weight[0] @ found + module.similarity.bias[0])


@torch.no_grad()
@pytest.mark.parametrize("values", KINDS)
def test_it_is_what_loops_find(values):
    head, cells, words = network(**values), bags(IMAGES, 6), bags(TEXTS, 5, seed=1)
    found, (seen, read) = matched(head, cells, words), (head.image(cells), head.text(words))
    for t in range(len(TEXTS)):
        for i in range(len(IMAGES)):
            one, other = ([unit(v) for v in bag.values[k][bag.mask[k]]] for bag, k in ((read, t), (seen, i)))
            nodes = plain_nodes(head, one, other)
            said = []
            if head.reasoning is not None:
                said.append(plain_reasoning(head.reasoning, nodes))
            if head.filtration is not None:
                said.append(plain_filtration(head.filtration, nodes))
            assert len(said) == (2 if values["module"] == "both" else 1)
            assert float(found[t, i]) == pytest.approx(sum(said) / len(said), abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("values", KINDS)
def test_padding_changes_nothing_and_a_batch_of_one_is_no_exception(values):
    for mode in (True, False):
        head, cells, words = network(**values).train(mode), bags(IMAGES, 6), bags(TEXTS, 5)
        whole = matched(head, cells, words)
        assert whole.shape == (5, 4)
        assert whole.dtype == torch.float32
        torch.testing.assert_close(matched(head, bags(IMAGES, 6, extra=3), bags(TEXTS, 5, extra=4)), whole)
        for t, i in ((1, 2), (2, 3), (4, 0)):  # the second of one word and one cell
            one = matched(head, cells.take(torch.tensor([i])), words.take(torch.tensor([t])))
            torch.testing.assert_close(one, whole[t : t + 1, i : i + 1])


@torch.no_grad()
@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("values", KINDS)
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
def test_what_is_kept_of_an_item_can_be_joined_and_taken():
    head = network()
    cells, parts = head.encode_image(bags(IMAGES, 6)), [head.encode_text(bags(counts, 5)) for counts in ([1, 2], [5])]
    joined = Bag.join(parts).take(torch.tensor([2, 0]))
    apart = torch.cat([head.match(cells, part, Grid()) for part in parts])
    torch.testing.assert_close(head.match(cells, joined, Grid()), apart[[2, 0]])


@torch.no_grad()
def test_more_lists_take_no_more_memory(monkeypatch):
    head = Sgraf.head(8, 8, Sgraf.Settings(scorer="sgraf", width=32, similarity_width=256)).eval()
    images, texts = head.encode_image(bags([49] * 20, 8)), head.encode_text(bags([20] * 12, 8))
    at_once, match = [], head._match

    def counted(*args):
        found = match(*args)
        at_once.append(found.numel())
        return found

    monkeypatch.setattr(head, "_match", counted)
    for pairing in (OfLists("t2i", torch.randint(20, (12, 51))), OfLists("i2t", torch.randint(12, (20, 51))), Grid()):
        at_once.clear()
        head.match(images, texts, pairing)
        assert max(at_once) * 21 * 256 <= 1.05 * 2**18  # one list of 51, or 48 pairs


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_of_the_formulas(masked):
    draw = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=draw, dtype=torch.float64, requires_grad=True)

    mask = torch.tensor([[True, True, True], [True, not masked, True]])
    assert torch.autograd.gradcheck(similarity_vectors, (random(2, 3, 4), random(2, 3, 4), random(5, 4), random(5)))
    assert torch.autograd.gradcheck(lambda *x: filtered(*x, mask), (random(2, 3, 4), random(2, 3)))
    values = random(2, 3, 4), random(2, 3, 4), random(4, 4), random(4, 4)
    assert torch.autograd.gradcheck(lambda *x: reasoned(*x, mask), values)


def test_nodes_that_are_none_count_nowhere():
    draw = torch.Generator().manual_seed(0)
    nodes, edge, update = (torch.randn(shape, generator=draw) for shape in ((2, 3, 4), (4, 4), (4, 4)))
    logits, mask = torch.randn(2, 3, generator=draw), torch.tensor([[True, True, False]] * 2)
    wild = torch.where(mask[..., None], nodes, 50.0)
    torch.testing.assert_close(filtered(wild, logits, mask), filtered(nodes[:, :2], logits[:, :2], mask[:, :2]))
    short = reasoned(nodes[:, :2], nodes[:, :2], edge, update, mask[:, :2])
    torch.testing.assert_close(reasoned(nodes[:, :2], wild, edge, update, mask), short)


@pytest.mark.parametrize("values", KINDS)
@pytest.mark.parametrize("sides", [["image"], ["text"], ["image", "text"]])
def test_gradients_are_finite_where_nothing_is_known(values, sides):
    """All tokens are zero vectors; on both sides they are also equal, and nothing is left of their difference."""
    head = network(**values).train()
    with torch.no_grad():
        for side in sides:
            getattr(head, side).map.weight.zero_()
            getattr(head, side).map.bias.zero_()
    loss = matched(head, bags(IMAGES, 6, extra=2), bags(TEXTS, 5, extra=2)).square().sum()
    loss.backward()
    assert bool(torch.isfinite(loss))
    gradients = [p.grad for p in head.parameters() if p.grad is not None]
    assert len(gradients) > 5
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def test_a_module_alone_has_no_weights_of_the_other():
    assert network(module="saf").reasoning is None
    assert network(module="sgr").filtration is None
    assert len(network(module="sgr").reasoning.into) == 3


def test_settings_are_checked():
    assert Sgraf().settings.similarity_width == 256
    for values in ({"module": "gcn"}, {"similarity_width": 0}):
        with pytest.raises(ValidationError):
            Sgraf.Settings(scorer="sgraf", **values)


def test_it_learns_what_words_and_cells_say(corpus, with_tokens):
    for direction in ("t2i", "i2t"):
        folds = inner_folds(with_tokens, 2, 0)
        parts = [TrainingPart(corpus.lists_of(held, direction), rest) for rest, held in folds]
        stack = fit_stack(Sgraf(device="cpu", **QUICK), with_tokens, direction, parts=parts, seed=0, device=CPU)
        gallery = rank_gallery(with_tokens, direction, "test")
        found = score_lists(stack.scorer, stack.tensors(with_tokens, gallery.lists, CPU))
        clip = torch.from_numpy(gallery.lists.cosine)
        ours, theirs = (float(per_query(scores, gallery)["MRR"].mean()) for scores in (found, clip))
        assert ours > theirs + 0.05, (ours, theirs)
