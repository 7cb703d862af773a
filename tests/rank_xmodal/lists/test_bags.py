"""Tables of tokens, what is taken out of them, and the tokens behind lists."""

import numpy as np
import pytest
import torch

from rank_xmodal.errors import UserError
from rank_xmodal.lists.bags import Bag, TokenTable
from rank_xmodal.lists.list_tokens import ListTokens
from rank_xmodal.lists.needs import Needs


@pytest.fixture
def words():
    rng = np.random.default_rng(0)
    return TokenTable.of_texts(rng.normal(size=(9, 3)).astype(np.float16), np.array([0, 2, 3, 7, 9]))


def test_items_are_taken_with_their_own_tokens_and_padding_behind(words):
    bag = words.take(torch.tensor([2, 1, 2]))
    assert bag.values.shape == (3, 4, 3)
    assert bag.values.dtype == torch.float32
    assert bag.mask.tolist() == [[True] * 4, [True, False, False, False], [True] * 4]
    assert torch.equal(bag.values[0], words.values[3:7].float())
    assert torch.equal(bag.values[1, 0], words.values[2].float())
    assert bool((bag.values[1, 1:] == 0).all())
    assert torch.equal(bag.values[2], bag.values[0])


def test_images_have_as_many_cells_each():
    cells = np.arange(24, dtype=np.float16).reshape(2, 4, 3)
    table = TokenTable.of_images(cells)
    assert len(table) == 2
    assert table.width == 3
    bag = table.take(torch.tensor([1]))
    assert torch.equal(bag.values[0], torch.from_numpy(cells[1]).float())
    assert bool(bag.mask.all())


def test_nothing_taken_is_an_empty_bag(words):
    assert words.take(torch.zeros(0, dtype=torch.int64)).values.shape[0] == 0


def test_bags_of_other_lengths_are_joined(words):
    one, two = words.take(torch.tensor([1])), words.take(torch.tensor([2, 0]))
    whole = Bag.join([one, two])
    assert torch.equal(whole.values, words.take(torch.tensor([1, 2, 0])).values)
    assert torch.equal(whole.mask, words.take(torch.tensor([1, 2, 0])).mask)
    assert torch.equal(whole.take(torch.tensor([2])).mask, words.take(torch.tensor([0, 2])).mask[:1])


def test_a_bag_is_zero_where_nothing_is():
    bag = Bag.of(torch.ones(1, 3, 2), torch.tensor([[True, False, True]]))
    assert bag.values[0, :, 0].tolist() == [1, 0, 1]
    assert bag.whole.shape == (1, 0)


def test_a_batch_holds_each_distinct_candidate_once(with_tokens):
    tokens = ListTokens.of(with_tokens, "t2i", torch.device("cpu"))
    rows = torch.tensor([[5, 3, -1], [3, 5, 9]])
    batch = tokens.batch(torch.tensor([4, 7]), rows)
    assert len(batch.candidates[0]) == 4  # padding is looked up as row 0
    assert not batch.projected
    for b, place in ((0, 0), (0, 1), (1, 0), (1, 2)):
        expected = tokens.candidates.take(rows[b, place][None])
        assert torch.equal(batch.candidates[0].take(batch.place[b, place][None]).values, expected.values)
    assert torch.equal(batch.queries.values, tokens.queries.take(torch.tensor([4, 7])).values)


def test_projected_candidates_are_looked_up_where_they_stand(with_tokens):
    tokens = ListTokens.of(with_tokens, "i2t", torch.device("cpu"))
    calls = []

    def double(bag):
        calls.append(len(bag))
        return (Bag(bag.values * 2, bag.mask, bag.whole),)

    known = tokens.projected_by(double, torch.arange(3, 600))
    rows = torch.tensor([[599, 3], [4, -1]])
    plain, projected = (one.batch(torch.tensor([0, 1]), rows) for one in (tokens, known))
    assert sum(calls) == 597
    assert projected.projected
    assert torch.equal(plain.place, projected.place)
    for b, place in ((0, 0), (0, 1), (1, 0)):
        one, two = (x.candidates[0].take(x.place[b, place][None]) for x in (plain, projected))
        count = int(one.mask.sum())
        assert torch.equal(one.values[0, :count] * 2, two.values[0, :count])
        assert int(two.mask.sum()) == count


def test_a_set_without_tokens_is_told(corpus):
    with pytest.raises(UserError, match=r"planted 0: holds no words and cells, which scorer=x needs\. Make them with"):
        Needs(tokens=True).check("x", corpus.data)


def test_an_inner_fold_has_the_tokens_of_its_set(with_tokens):
    from rank_xmodal.training.crossfit import inner_folds

    (rest, _), *_ = inner_folds(with_tokens, 2)
    one, two = (ListTokens.of(data, "t2i", torch.device("cpu")) for data in (with_tokens, rest))
    assert torch.equal(one.candidates.values, two.candidates.values)
