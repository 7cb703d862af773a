"""Searching with a scorer that reads words and cells: the scores of an evaluation, and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch

from rank_xmodal import scorers
from rank_xmodal.data.tokens import Tokens
from rank_xmodal.errors import UserError
from rank_xmodal.lists.bags import Bag, TokenTable
from rank_xmodal.lists.list_tokens import tables_of
from rank_xmodal.lists.scoring import score_lists
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.scorers import Stack
from rank_xmodal.scorers.local.bank import HeadBank
from rank_xmodal.scorers.local.late_interaction import LateInteraction
from rank_xmodal.use.given import differing
from rank_xmodal.use.reranker import Reranker

CPU = torch.device("cpu")
FEATURES = {"tower": "vit", "layer": "last block", "path": "features", "grid": [2, 3], "normalised": False,
            "image_width": 16, "text_width": 12}  # fmt: skip


def untrained(direction):
    """Return late interaction with random weights for cells 16 and words 12 wide."""
    scorer = scorers.get("late_interaction", width=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        scorer.network = LateInteraction.head(16, 12, scorer.settings).eval()
        queries = Bag.of(torch.randn(5, 3, 8), torch.ones(5, 3, dtype=torch.bool))
    scorer.bank = HeadBank(queries, torch.zeros(0, 8), torch.zeros(0, dtype=torch.int64))
    scorer.direction, scorer.weights = direction, torch.tensor([1.0, -0.4, 3.0, -1.2])
    return scorer


def made(direction, **facts):
    bank = np.eye(5, 24, dtype=np.float16)
    return Reranker(Stack(untrained(direction), bank), {"direction": direction, "tokens": FEATURES, **facts}, CPU)


def asked_and_found(data, direction):
    """Return the tables of queries and candidates of a set."""
    images, texts = tables_of(data)
    return (texts, images) if direction == "t2i" else (images, texts)


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_a_search_scores_as_an_evaluation_does(with_tokens, direction):
    ranker = made(direction)
    gallery = rank_gallery(with_tokens, direction, "test", depth=50)
    expected = score_lists(ranker.stack.scorer, ranker.stack.tensors(with_tokens, gallery.lists, CPU))
    expected, order = (part.numpy() for part in expected.sort(dim=1, descending=True, stable=True))
    rows, queries = with_tokens.candidate_rows(direction, "test"), gallery.lists.query.astype(np.int64)
    asking, found = asked_and_found(with_tokens, direction)
    index = ranker.index(
        with_tokens.candidates(direction)[rows], ids=rows, tokens=found.select(torch.from_numpy(rows))
    )  # fmt: skip
    words = asking.select(torch.from_numpy(queries))
    hits = index.search(with_tokens.queries(direction)[queries], k=50, depth=50, tokens=words)
    np.testing.assert_allclose(hits.scores, expected, rtol=1e-4, atol=1e-5)
    assert (hits.ids == np.take_along_axis(gallery.lists.candidates, order, 1)).mean() > 0.99
    np.testing.assert_array_equal(rows[hits.rows], hits.ids)
    one_by_one = index.search(with_tokens.queries(direction)[queries], k=50, depth=50, batch_size=1, tokens=words)
    np.testing.assert_allclose(one_by_one.scores, hits.scores, rtol=1e-4, atol=1e-5)


def test_a_deeper_first_stage_finds_what_the_scorer_likes_best(with_tokens):
    index = made("t2i").index(with_tokens.image_emb, tokens=tables_of(with_tokens)[0])
    words = tables_of(with_tokens)[1].select(torch.arange(5))
    few, all_of_them = (index.search(with_tokens.text_emb[:5], k=3, depth=n, tokens=words) for n in (10, 1_000))
    assert (all_of_them.scores[:, 0] >= few.scores[:, 0] - 1e-5).all()
    assert (all_of_them.ids != few.ids).any()
    with pytest.raises(ValueError, match="depth=0: must be an integer of 1 or more"):
        index.search(with_tokens.text_emb[:5], depth=0, tokens=words)


def test_a_table_of_some_items_is_theirs(with_tokens):
    tokens = Tokens.open(with_tokens)
    table = TokenTable.of_texts(tokens.text, tokens.offsets)
    some = table.select(torch.tensor([7, 0, 7, 3]))
    assert len(some) == 4
    for place, row in enumerate((7, 0, 7, 3)):
        own = some.values[some.offsets[place] : some.offsets[place + 1]].numpy()
        np.testing.assert_array_equal(own, tokens.text[tokens.offsets[row] : tokens.offsets[row + 1]])
    assert len(table.select(torch.empty(0, dtype=torch.int64))) == 0


def test_tokens_are_given_exactly_where_they_are_read(with_tokens):
    images, texts = tables_of(with_tokens)
    ranker, rows = made("t2i"), np.asarray(with_tokens.image_emb)
    with pytest.raises(ValueError, match=r"tokens=NoneType: late interaction reads words and cells.* embeddings"):
        ranker.index(rows)
    with pytest.raises(ValueError, match="tokens of 400 items for 10 embeddings: give those of each"):
        ranker.index(rows[:10], tokens=images)
    with pytest.raises(ValueError, match=r"tokens of the embeddings have shape .* this ranker takes \(n, 16\)"):
        ranker.index(np.asarray(with_tokens.text_emb), tokens=texts)
    index = ranker.index(rows, tokens=images)
    for words, said in (
        (None, "tokens=NoneType: .* those of the queries"),
        (texts, "tokens of 800 items for 2 queries"),
        (images.select(torch.arange(2)), r"tokens of the queries .* takes \(n, 12\)"),
        (TokenTable(texts.values[:3], torch.tensor([0, 3, 3])), "tokens of the queries: row 1 has none"),
    ):
        with pytest.raises(ValueError, match=said):
            index.search(with_tokens.text_emb[:2], tokens=words)
    plain = Reranker(Stack(scorers.get("clip"), np.eye(5, 24, dtype=np.float16)), {}, CPU)
    with pytest.raises(ValueError, match="tokens of the embeddings: CLIP reads none"):
        plain.index(rows, tokens=images)
    with pytest.raises(ValueError, match="tokens of the queries: CLIP reads none"):
        plain.index(rows).search(with_tokens.text_emb[:2], tokens=texts)
    with pytest.raises(ValueError, match="content of the queries: CLIP looks at none"):
        plain.index(rows).search(with_tokens.text_emb[:1], content=["a caption"])


def holding(data, tokens):
    return dataclasses.replace(data, meta={**data.meta, "tokens": tokens})


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (None, r"runs/a: reads words and cells, and .* holds none\. Make them with .*--tokens features"),
        ({**FEATURES, "path": "values", "normalised": True}, "path 'values' in place of 'features', normalised True"),
        ({**FEATURES, "tower": "resnet"}, "tower 'resnet' in place of 'vit'"),
        ({**FEATURES, "image_width": 20}, "image_width 20 in place of 16"),
        ({**FEATURES, "tower": "import", "path": None, "text_width": 9}, "text_width 9 in place of 12"),
    ],
)
def test_tokens_of_another_kind_are_refused(with_tokens, other, said):
    with pytest.raises(UserError, match=said):
        made("t2i").check_made_for(holding(with_tokens, other), "runs/a")


@pytest.mark.parametrize(
    "other",
    [
        {**FEATURES, "fingerprint": "another"},
        {"tower": "import", "layer": None, "path": None, "normalised": False, "image_width": 16, "text_width": 12},
    ],
)
def test_tokens_of_the_same_kind_and_of_one_that_nobody_knows_are_taken(with_tokens, other):
    made("t2i").check_made_for(holding(with_tokens, other), "runs/a")
    made("t2i", tokens=None).check_made_for(holding(with_tokens, {**FEATURES, "path": "values"}), "runs/a")


def test_older_sets_say_one_width_and_not_that_tokens_are_normalised():
    today = {"path": "values", "normalised": True, "image_width": 32, "text_width": 32}
    assert differing({"path": "values", "width": 32}, today) == differing(today, {"path": "values", "width": 32}) == ""
    assert differing(today, {"width": 64}) == "image_width 64 in place of 32, text_width 64 in place of 32"
