"""Many by the cosine, fewer by a ranker, the first few by what looks at captions and images themselves."""

import numpy as np
import pytest
import torch

from rank_xmodal import scorers
from rank_xmodal.errors import UserError
from rank_xmodal.lists.content import Content
from rank_xmodal.lists.needs import Needs
from rank_xmodal.scorers import Stack
from rank_xmodal.scorers.base import Scorer
from rank_xmodal.scorers.first_few import above_the_rest, first_few
from rank_xmodal.use.cascade import Cascade
from rank_xmodal.use.reranker import Reranker

N = 120


class Letters(Scorer):
    """Likes an image best whose number is nearest to the caption's; stands for a model that takes a second a pair."""

    name = label = paper = "letters"

    def __init__(self, top=5):
        super().__init__()
        self.top, self.asked = top, []

    @property
    def needs(self):
        return Needs(base=True, content=True)

    def score(self, batch):
        content, scores = batch.content, []
        queries, rows = batch.query_row.tolist(), batch.rows.tolist()
        for query, row, places in zip(queries, rows, first_few(batch, self.top), strict=True):
            pairs = [content.pair(query, row[place]) for place in places]
            self.asked.append(pairs)
            scores.append([-abs(int(text.split()[-1]) - int(path.split(".")[0])) for text, path in pairs])
        return above_the_rest(batch, scores)


def embeddings(seed=0):
    return np.random.default_rng(seed).normal(size=(N, 16))


def index_of(name="csls", **given):
    bank = np.random.default_rng(1).normal(size=(30, 16)).astype(np.float16)
    ranker = Reranker(Stack(scorers.get(name), bank), {"direction": "t2i"}, torch.device("cpu"))
    return ranker.index(embeddings(), ids=[f"id {row}" for row in range(N)], **given)


IMAGES = [f"{row}.png" for row in range(N)]
ASKED = ["number 7", "number 70", "number 100"]


def test_the_rankers_first_few_are_put_in_order_again():
    index, last = index_of(), Letters(top=5)
    queries = embeddings(2)[:3]
    before = index.search(queries, k=50, depth=100)
    hits = Cascade(index, last, Content("t2i", [], IMAGES)).search(queries, ASKED, k=20, depth=100, ranked=50)
    assert hits.ids.shape == hits.rows.shape == hits.scores.shape == hits.cosine.shape == (3, 20)
    for query, wanted in enumerate((7, 70, 100)):
        first = before.rows[query, :5]
        assert last.asked[query] == [(ASKED[query], f"{row}.png") for row in first], "five pairs, in the ranker's order"
        np.testing.assert_array_equal(hits.rows[query, :5], first[np.argsort(abs(first - wanted), kind="stable")])
        np.testing.assert_array_equal(hits.rows[query, 5:], before.rows[query, 5:20], "the others as they were")
        assert hits.ids[query].tolist() == [f"id {row}" for row in hits.rows[query]]
        assert (np.diff(hits.scores[query]) <= 0).all()
        place = before.rows[query].tolist().index(hits.rows[query, 0])
        assert hits.cosine[query, 0] == before.cosine[query, place], "its own cosine comes along"


def test_the_best_of_the_few_is_found_even_if_one_alone_is_asked_for():
    index, queries = index_of("clip"), embeddings(2)[:3]
    cascade = Cascade(index, Letters(top=N), Content("t2i", [], IMAGES))
    hits = cascade.search(queries, ASKED, k=1, ranked=N)
    assert hits.rows[:, 0].tolist() == [7, 70, 100]
    few = cascade.search(queries, ASKED, k=1, depth=10, ranked=N)
    assert few.rows[:, 0].tolist() != [7, 70, 100], "the first stage has not found them"
    assert cascade.search(queries[:0], [], k=3).ids.shape == (0, 3)


def test_a_ranker_that_looks_at_content_itself_gets_it():
    index = index_of("blip_itm", content=IMAGES)
    inner = Letters(top=20)
    object.__setattr__(index, "stack", Stack(inner, index.stack.bank))
    last = Letters(top=2)
    hits = Cascade(index, last, Content("t2i", [], IMAGES)).search(embeddings(2)[:1], ASKED[:1], k=3)
    assert len(inner.asked[0]) == 20
    assert len(last.asked[0]) == 2
    assert hits.rows.shape == (1, 3)


@pytest.mark.parametrize("name", ["vsepp", "context_aware", "clip", "csls", "late_interaction"])
def test_what_has_to_be_fitted_or_looks_at_nothing_cannot_come_last(name):
    with pytest.raises(UserError, match=f"scorer={name} can't come last: .* Use blip_itm or remote"):
        Cascade(index_of(), scorers.get(name), Content("t2i", [], IMAGES))


def test_content_is_that_of_the_corpus_and_of_the_queries():
    index, last, queries = index_of(), Letters(), embeddings()[:2]
    with pytest.raises(ValueError, match=r"content of the candidates: 3 for 120 candidates\. .* image file"):
        Cascade(index, last, Content("t2i", [], IMAGES[:3]))
    cascade = Cascade(index, last, Content("t2i", [], IMAGES))
    for asked, said in (
        (["one"], "1 for 2 queries. Give letters a list of their captions"),
        ("ab", "a str for 2 queries"),
        (None, "none for 2 queries"),
    ):
        with pytest.raises(ValueError, match=f"content of the queries: {said}"):
            cascade.search(queries, asked)
    with pytest.raises(ValueError, match="k=121: must be an integer between 1 and 120"):
        cascade.search(queries, ASKED[:2], k=121)
    with pytest.raises(ValueError, match="ranked=0: must be an integer of 1 or more"):
        cascade.search(queries, ASKED[:2], ranked=0)
    with pytest.raises(ValueError, match=r"content of the embeddings: none for 120 embeddings\. Give BLIP"):
        index_of("blip_itm")
    with pytest.raises(ValueError, match="content of the embeddings: CLIP looks at none"):
        index_of("clip", content=IMAGES)
    with pytest.raises(ValueError, match="content of the queries: none for 2 queries"):
        index_of("blip_itm", content=IMAGES).search(queries)


def test_scores_of_the_few_stay_and_the_rest_lies_below_at_any_size():
    from rank_xmodal.lists.list_batch import ListBatch

    cosine = torch.tensor([[0.1, 0.9, 0.9, 0.5, 7.0]])
    mask = torch.tensor([[True, True, True, True, False]])
    batch = ListBatch(torch.zeros(1, 1), torch.zeros(1, 5, 0), cosine, torch.zeros(1, 5, 0), mask)
    assert first_few(batch, 3) == [[1, 2, 3]], "of equals the first; padding never"
    assert first_few(batch, 9) == [[1, 2, 3, 0]]
    for size in (0.0, -20.0, 1e9, -1e25):
        found = above_the_rest(batch, [[size, size + 1.0]])[0]
        assert found[1] == torch.tensor(size)
        assert found[3] < min(found[1], found[2])
        assert found[0] < found[3]
    assert torch.equal(above_the_rest(batch, [None]), cosine)
    assert torch.equal(above_the_rest(batch, [[]]), cosine)


def test_a_query_for_which_fewer_are_found_than_for_others_gets_these_alone(tmp_path, monkeypatch):
    pytest.importorskip("lancedb")
    monkeypatch.setattr("rank_xmodal.use.lance_store._LARGE", 50)
    index = index_of().save(tmp_path / "index", store="lance")
    index.store.facts["probes"] = 1  # of ten parts of the table
    queries, last = embeddings(2)[:3], Letters(top=50)
    before = index.search(queries, k=50, depth=100)
    assert (before.rows < 0).any()
    hits = Cascade(index, last, Content("t2i", [], IMAGES)).search(queries, ASKED, k=50, depth=100)
    np.testing.assert_array_equal(np.sort(hits.rows), np.sort(before.rows))
    np.testing.assert_array_equal(np.isneginf(hits.scores), hits.rows < 0)
    assert all(len(pairs) == (rows >= 0).sum() for pairs, rows in zip(last.asked, before.rows, strict=True))
