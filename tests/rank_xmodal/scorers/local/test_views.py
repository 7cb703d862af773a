"""Views: summaries and their likeness against plain loops, padding, and what a head makes of them."""

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
from rank_xmodal.scorers.local.views import Views, best_view, likeness, summarised
from rank_xmodal.scorers.stack import TrainingPart, fit_stack
from rank_xmodal.training.crossfit import inner_folds

CPU = torch.device("cpu")
QUICK = {"width": 16, "steps": 60, "batch_size": 64, "lr": 1e-2, "dropout": 0.1, "without": 0.1}
IMAGES, TEXTS = [4, 6, 3], [2, 5, 1, 4]  # tokens of each


def bags(counts, width, seed=0, extra=0):
    """Return random items with so many tokens each, and places of padding behind."""
    draw = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(counts) + extra) < torch.tensor(counts)[:, None]
    values = torch.randn(len(counts), max(counts), width, generator=draw)
    return Bag.of(F.pad(values, (0, 0, 0, extra)), mask)


def network(spread=0.5, **values):
    """Return a head away from its start (by `spread`), in evaluation mode."""
    torch.manual_seed(0)
    settings = {"width": 8, "views": 3, "dropout": 0.0, "without": 0.0, **values}
    found = Views.head(6, 5, Views.Settings(scorer="views", **settings))
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(torch.randn_like(parameter) * spread)
    return found.eval()


def matched(head, cells, words):
    return head.match(head.encode_image(cells), head.encode_text(words), Grid())


def test_views_equal_a_plain_loop():
    draw = torch.Generator().manual_seed(1)
    values, logits = torch.randn(3, 4, 5, generator=draw), torch.randn(3, 4, 2, generator=draw)
    mask = torch.tensor([[True, False, True, True], [True] * 4, [False] * 4])
    found = summarised(values, mask, logits)
    for row in range(2):
        there = mask[row].nonzero()[:, 0].tolist()
        for k in range(2):
            power = [math.exp(logits[row, p, k]) for p in there]
            wanted = sum(w * values[row, p] for w, p in zip(power, there, strict=True)) / sum(power)
            torch.testing.assert_close(found[row, k], wanted)
    assert bool((found[2] == 0).all())


def test_likeness_equals_a_plain_loop():
    draw = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 4, 3, generator=draw)
    mask = torch.tensor([[True, False, True, True], [True] * 4])
    total = 0.0
    for row in range(2):
        columns = [[float(logits[row, p, k]) for p in range(4) if mask[row, p]] for k in range(3)]
        columns = [[x / math.sqrt(sum(y * y for y in column)) for x in column] for column in columns]
        for k in range(3):
            for m in range(3):
                product = sum(x * y for x, y in zip(columns[k], columns[m], strict=True))
                total += (product - (k == m)) ** 2
    assert float(likeness(logits, mask)) == pytest.approx(total / 2, rel=1e-5)


def test_likeness_knows_equal_and_orthogonal_views():
    mask = torch.ones(5, 4, dtype=torch.bool)
    assert float(likeness(torch.eye(4)[:, :3].expand(5, -1, -1) * 7, mask)) == pytest.approx(0)
    assert float(likeness(torch.ones(5, 4, 3), mask)) == pytest.approx(6, rel=1e-5)


def test_the_best_view_counts():
    views = F.normalize(torch.randn(2, 3, 4), dim=-1)
    captions = F.normalize(torch.randn(5, 1, 4), dim=-1)
    found = best_view(views, captions, Grid())
    for caption in range(5):
        for image in range(2):
            assert float(found[caption, image]) == pytest.approx(
                max(float(captions[caption, 0] @ view) for view in views[image]), abs=1e-6
            )


def test_gradients_of_the_formulas():
    draw = torch.Generator().manual_seed(3)
    values = torch.randn(2, 3, 2, dtype=torch.float64, generator=draw, requires_grad=True)
    logits = torch.randn(2, 3, 2, dtype=torch.float64, generator=draw, requires_grad=True)
    mask = torch.tensor([[True, False, True], [True, True, True]])
    assert torch.autograd.gradcheck(lambda v, a: summarised(v, mask, a), (values, logits))
    assert torch.autograd.gradcheck(lambda a: likeness(a, mask), (logits,))


@torch.no_grad()
def test_its_start_is_nearly_the_cosine_of_the_means():
    torch.manual_seed(0)
    settings = Views.Settings(scorer="views", width=64)
    head = Views.head(6, 5, settings).eval()
    cells, words = bags([20] * 8, 6), bags([9] * 8, 5)
    image, text = (F.normalize(mean_of(side(bag)), dim=-1) for side, bag in ((head.image, cells), (head.text, words)))
    found = matched(head, cells, words)
    assert float((found - text @ image.T).abs().max()) < 0.15
    assert float(torch.corrcoef(torch.stack([found.flatten(), (text @ image.T).flatten()]))[0, 1]) > 0.98
    views = head.encode_image(cells).values
    assert float((views[:, 0] - views[:, 1]).abs().min()) > 0  # but no two are the same, or they would stay so


def test_padding_changes_nothing_and_a_batch_of_one_is_no_exception():
    head = network()
    whole = matched(head, bags(IMAGES, 6), bags(TEXTS, 5))
    assert whole.shape == (4, 3)
    torch.testing.assert_close(matched(head, bags(IMAGES, 6, extra=3), bags(TEXTS, 5, extra=4)), whole)
    one = matched(head, bags(IMAGES, 6).take(torch.tensor([2])), bags(TEXTS, 5).take(torch.tensor([1])))
    torch.testing.assert_close(one, whole[1:2, 2:])


def test_lists_say_what_the_grid_says():
    head = network()
    seen, read = head.encode_image(bags(IMAGES, 6)), head.encode_text(bags(TEXTS, 5))
    grid = head.match(seen, read, Grid())
    place = torch.tensor([[2, 0], [1, 1], [0, 2], [1, 0]])
    torch.testing.assert_close(head.match(seen, read, OfLists("t2i", place)), grid.gather(1, place))
    place = torch.tensor([[3, 0, 1], [2, 2, 0], [0, 1, 3]])
    torch.testing.assert_close(head.match(seen, read, OfLists("i2t", place)), grid.T.gather(1, place))


def test_the_penalty_is_of_the_last_images_seen_in_training_and_told_once():
    head, cells = network(diversity=0.5), bags(IMAGES, 6)
    head.encode_image(cells)
    assert head.penalty() is None
    head.train()
    head.encode_image(cells)
    mapped = head.image(cells)
    _, logits = head.views.cells(mapped)
    torch.testing.assert_close(head.penalty(), 0.5 * likeness(logits, mapped.mask))
    assert head.penalty() is None
    head.encode_text(bags(TEXTS, 5))
    assert head.penalty() is None
    free = network(diversity=0).train()
    free.encode_image(cells)
    assert free.penalty() is None


def test_padding_changes_no_penalty():
    found = []
    for extra in (0, 3):
        head = network().train()
        head.encode_image(bags(IMAGES, 6, extra=extra))
        found.append(head.penalty())
    torch.testing.assert_close(*found)


def test_the_penalty_pulls_views_apart():
    head, cells = network(spread=0, diversity=1), bags([9] * 4, 6)
    head.train()
    optimizer, found = torch.optim.Adam(head.parameters(), 1e-2), []
    for _ in range(60):
        head.encode_image(cells)
        found.append(head.penalty())
        optimizer.zero_grad()
        found[-1].backward()
        optimizer.step()
    assert bool(found[-1] < 0.5 * found[0])


def test_gradients_are_finite_where_nothing_is_known():
    """An item without tokens, and images whose tokens are all zero."""
    head = network().train()
    cells, words = bags(IMAGES, 6), bags(TEXTS, 5)
    cells, words = (Bag.of(bag.values, bag.mask & (torch.arange(len(bag)) > 0)[:, None]) for bag in (cells, words))
    with torch.no_grad():
        head.image.map.weight.zero_()
        head.image.map.bias.zero_()
    loss = matched(head, cells, words).square().sum() + head.penalty()
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in head.parameters())


@pytest.mark.parametrize("values", [{"views": 0}, {"diversity": -1}])
def test_settings_are_checked(values):
    with pytest.raises(ValidationError):
        Views.Settings(scorer="views", **values)


def test_it_learns_what_words_and_cells_say(corpus, with_tokens):
    for direction in ("t2i", "i2t"):
        folds = inner_folds(with_tokens, 2, 0)
        parts = [TrainingPart(corpus.lists_of(held, direction), rest) for rest, held in folds]
        scorer = scorers.get("views", device="cpu", **QUICK)
        stack = fit_stack(scorer, with_tokens, direction, parts=parts, seed=0, device=CPU)
        gallery = rank_gallery(with_tokens, direction, "test")
        found = score_lists(stack.scorer, stack.tensors(with_tokens, gallery.lists, CPU))
        clip = torch.from_numpy(gallery.lists.cosine)
        ours, theirs = (float(per_query(scores, gallery)["MRR"].mean()) for scores in (found, clip))
        assert ours > theirs + 0.05
