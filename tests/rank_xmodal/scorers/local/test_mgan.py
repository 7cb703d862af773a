"""Three levels: the interaction against plain loops, every level alone, padding, and what a head makes of them."""

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
from rank_xmodal.scorers.local.mgan import Mgan, attended, interaction
from rank_xmodal.scorers.local.network import mean_of
from rank_xmodal.scorers.local.pairing import Grid, OfLists
from rank_xmodal.scorers.stack import TrainingPart, fit_stack
from rank_xmodal.training.crossfit import inner_folds

CPU = torch.device("cpu")
QUICK = {"width": 16, "steps": 60, "batch_size": 64, "lr": 1e-2, "dropout": 0.1, "without": 0.1}
IMAGES, TEXTS = [4, 6, 3], [2, 5, 1, 4]  # tokens of each
LEVELS = ("views", "tokens", "whole")
KINDS = [
    {}, {"interaction": False}, *({"levels": (level,)} for level in LEVELS),
    *({"levels": tuple(other for other in LEVELS if other != level)} for level in LEVELS),
]  # fmt: skip


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
    found = Mgan.head(6, 5, Mgan.Settings(scorer="mgan", **settings))
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(torch.randn_like(parameter) * spread)
    return found.eval()


def matched(head, cells, words):
    return head.match(head.encode_image(cells), head.encode_text(words), Grid())


def plain_attended(tokens, others, sharpness):
    """Return the cosine of each token with what it attends to, all given as vectors of length 1."""
    found = []
    for token in tokens:
        power = [math.exp(sharpness * float(token @ other)) for other in others]
        vector = sum(w * other for w, other in zip(power, others, strict=True)) / sum(power)
        found.append(float(token @ vector / vector.norm()))
    return found


def tokens_of(counts, seed):
    bag = bags(counts, 5, seed)
    return F.normalize(bag.values, dim=-1), bag.mask


def test_the_interaction_equals_plain_loops():
    (x, words), (y, cells) = tokens_of([2, 5], 1), tokens_of([3, 4, 1], 2)
    pairing = Grid()
    products = pairing.products(x, y)
    grams = pairing.texts(x @ x.transpose(1, 2)), pairing.images(y @ y.transpose(1, 2))
    masks = pairing.texts(words), pairing.images(cells)
    by_word = attended(products, grams[1], masks[1], 6.0)
    found = interaction(products, *grams, *masks, 6.0)
    for t in range(2):
        for i in range(3):
            own_words, own_cells = x[t][words[t]], y[i][cells[i]]
            one = plain_attended(own_words, own_cells, 6.0)
            other = plain_attended(own_cells, own_words, 6.0)
            assert by_word[t, i, : len(one)].tolist() == pytest.approx(one, abs=1e-5)
            assert float(found[t, i]) == pytest.approx(sum(one) / len(one) / 2 + sum(other) / len(other) / 2, abs=1e-5)


def test_gradients_of_the_formula():
    (x, words), (y, cells) = tokens_of([2, 3], 1), tokens_of([3, 1], 2)
    words, cells = words.clone(), cells.clone()
    words[0] = False  # a caption without words

    def formula(x, y, sharpness):
        products = Grid().products(x, y)
        grams = (x @ x.transpose(1, 2))[:, None], (y @ y.transpose(1, 2))[None]
        return interaction(products, *grams, words[:, None], cells[None], sharpness)

    values = [part.double().requires_grad_() for part in (x, y, torch.tensor(3.0))]
    assert torch.autograd.gradcheck(formula, values)


@torch.no_grad()
def test_each_level_is_what_it_is_called():
    cells, words = bags(IMAGES, 6), bags(TEXTS, 5)
    head = network(levels=("whole",))
    assert head.views is None
    image, text = (F.normalize(mean_of(side(bag)), dim=-1) for side, bag in ((head.image, cells), (head.text, words)))
    torch.testing.assert_close(matched(head, cells, words), text @ image.T)

    head = network(levels=("views",))
    seen, read = head.views.seen(head.image(cells)), head.views.read(head.text(words))
    torch.testing.assert_close(matched(head, cells, words), torch.einsum("bk,lvk->blv", read[:, 0], seen).amax(-1))

    for interacts in (True, False):
        head = network(levels=("tokens",), interaction=interacts)
        found = matched(head, cells, words)
        y, x = (F.normalize(side(bag).values, dim=-1) for side, bag in ((head.image, cells), (head.text, words)))
        for t, count in enumerate(TEXTS):
            for i, size in enumerate(IMAGES):
                one, other = x[t, :count], y[i, :size]
                if interacts:
                    ways = [plain_attended(*way, float(head.logsharp.exp())) for way in ((one, other), (other, one))]
                else:
                    ways = [(one @ other.T).amax(dim).tolist() for dim in (1, 0)]
                wanted = sum(sum(way) / len(way) for way in ways) / 2
                assert float(found[t, i]) == pytest.approx(wanted, abs=1e-5)


def test_the_score_is_their_mean_with_weights_of_1_06_and_02():
    cells, words = bags(IMAGES, 6), bags(TEXTS, 5)
    head = network(spread=0)
    torch.testing.assert_close(head.logweights.softmax(0), torch.tensor([1.0, 0.6, 0.2]) / 1.8)
    total = 0.0
    for level, weight in (("views", 1.0), ("tokens", 0.6), ("whole", 0.2)):
        alone = network(spread=0, levels=(level,))
        alone.load_state_dict(
            {name: value for name, value in head.state_dict().items() if name != "logweights"}, strict=False
        )
        total = total + weight / 1.8 * matched(alone, cells, words)
    torch.testing.assert_close(matched(head, cells, words), total)
    matched(head, cells, words).square().sum().backward()
    assert bool((head.logweights.grad != 0).all())


@pytest.mark.parametrize("values", KINDS)
def test_padding_changes_nothing_and_a_batch_of_one_is_no_exception(values):
    head = network(**values)
    whole = matched(head, bags(IMAGES, 6), bags(TEXTS, 5))
    assert whole.shape == (4, 3)
    torch.testing.assert_close(matched(head, bags(IMAGES, 6, extra=3), bags(TEXTS, 5, extra=4)), whole)
    one = matched(head, bags(IMAGES, 6).take(torch.tensor([2])), bags(TEXTS, 5).take(torch.tensor([1])))
    torch.testing.assert_close(one, whole[1:2, 2:])


@pytest.mark.parametrize("values", KINDS)
def test_lists_say_what_the_grid_says(values):
    head = network(**values)
    seen, read = head.encode_image(bags(IMAGES, 6)), head.encode_text(bags(TEXTS, 5))
    grid = head.match(seen, read, Grid())
    place = torch.tensor([[2, 0], [1, 1], [0, 2], [1, 0]])
    torch.testing.assert_close(head.match(seen, read, OfLists("t2i", place)), grid.gather(1, place))
    place = torch.tensor([[3, 0, 1], [2, 2, 0], [0, 1, 3]])
    torch.testing.assert_close(head.match(seen, read, OfLists("i2t", place)), grid.T.gather(1, place))


@pytest.mark.parametrize("values", KINDS)
def test_what_is_kept_of_an_item_can_be_joined_and_taken(values):
    head = network(**values)
    cells, parts = head.encode_image(bags(IMAGES, 6)), [head.encode_text(bags(counts, 5)) for counts in ([1, 2], [5])]
    joined = Bag.join(parts).take(torch.tensor([2, 0]))
    apart = torch.cat([head.match(cells, part, Grid()) for part in parts])
    torch.testing.assert_close(head.match(cells, joined, Grid()), apart[[2, 0]])


@pytest.mark.parametrize("values", KINDS)
@pytest.mark.parametrize("zero", [False, True])
def test_gradients_are_finite_where_nothing_is_known(values, zero):
    """An item without tokens; and all images of zero vectors."""
    head = network(**values).train()
    cells, words = bags(IMAGES, 6), bags(TEXTS, 5)
    cells, words = (Bag.of(bag.values, bag.mask & (torch.arange(len(bag)) > 0)[:, None]) for bag in (cells, words))
    if zero:
        with torch.no_grad():
            head.image.map.weight.zero_()
            head.image.map.bias.zero_()
    found = matched(head, cells, words)
    assert found[0].tolist() == [0] * 3
    assert found[:, 0].tolist() == [0] * 4
    penalty = head.penalty()
    loss = found.square().sum() + (0 if penalty is None else penalty)
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in head.parameters())


def test_its_views_are_kept_apart():
    head = network().train()
    head.encode_image(bags(IMAGES, 6))
    assert float(head.penalty().detach()) > 0
    head = network(levels=("tokens", "whole")).train()
    head.encode_image(bags(IMAGES, 6))
    assert head.penalty() is None


@pytest.mark.parametrize("levels", [[], ["views", "views"], ["cells"]])
def test_settings_are_checked(levels):
    with pytest.raises(ValidationError):
        Mgan.Settings(scorer="mgan", levels=levels)
    assert Mgan.Settings(scorer="mgan", levels=["whole"]).levels == ("whole",)


def test_it_learns_what_words_and_cells_say(corpus, with_tokens):
    for direction in ("t2i", "i2t"):
        folds = inner_folds(with_tokens, 2, 0)
        parts = [TrainingPart(corpus.lists_of(held, direction), rest) for rest, held in folds]
        scorer = scorers.get("mgan", device="cpu", **QUICK)
        stack = fit_stack(scorer, with_tokens, direction, parts=parts, seed=0, device=CPU)
        gallery = rank_gallery(with_tokens, direction, "test")
        found = score_lists(stack.scorer, stack.tensors(with_tokens, gallery.lists, CPU))
        clip = torch.from_numpy(gallery.lists.cosine)
        ours, theirs = (float(per_query(scores, gallery)["MRR"].mean()) for scores in (found, clip))
        assert ours > theirs + 0.05
