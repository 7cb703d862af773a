"""A batch against a gather by hand."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from rank_xmodal.data.candidate_lists import CandidateLists
from rank_xmodal.lists.list_tensors import ListTensors
from rank_xmodal.retrieval.query_bank import Neighbours, neighbours, query_groups, training_neighbours
from rank_xmodal.scorers.context_aware.ranker import ContextAwareRanker, RankerConfig
from rank_xmodal.scorers.cosine import Cosine

CPU = torch.device("cpu")


def some_lists(direction="t2i"):
    """Three lists over the planted corpus, of which two are padded, one in the middle."""
    return CandidateLists(
        np.array([4, 0, 9], np.int32),
        np.array([[2, 0, 5, 7], [0, -1, 3, -1], [1, 4, 6, -1]], np.int32),
        np.array([[1, 0, 0, 0], [1, -1, 0, -1], [0, 1, 0, -1]], np.int8),
        np.array([[0.5, 0.4, 0.3, 0.2], [0.6, 0.0, 0.1, 0.0], [0.3, 0.2, 0.1, 0.0]], np.float32),
        {"direction": direction, "split": "train", "fingerprint": "planted 0"},
    )


def plain(n, k=4):
    return Neighbours(torch.rand(n, k).sort(1, descending=True).values, torch.full((n, k), -1))


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_a_batch_is_a_gather(corpus, direction):
    data, lists = corpus.data, some_lists(direction)
    near = plain(len(data.candidates(direction)))
    tensors = ListTensors.gather(data, lists, near.of, CPU, in_bank=False)
    order = [2, 0, 1]
    batch, labels = tensors.batch(torch.tensor(order))
    assert len(tensors) == 3
    assert batch.query.dtype == batch.candidates.dtype == torch.float32
    for place, number in enumerate(order):
        query = torch.from_numpy(data.queries(direction)[lists.query[number]].astype(np.float32))
        assert torch.equal(batch.query[place], query)
        for column, row in enumerate(lists.candidates[number].tolist()):
            assert bool(batch.mask[place, column]) == (row >= 0)
            assert int(labels[place, column]) == lists.labels[number, column]
            if row < 0:
                continue
            candidate = torch.from_numpy(data.candidates(direction)[row].astype(np.float32))
            assert torch.equal(batch.candidates[place, column], candidate)
            assert float(batch.cosine[place, column]) == float(lists.cosine[number, column])
            assert torch.equal(batch.neighbour_cosine[place, column], near.cosine[row])


def test_a_ranker_without_hubness_needs_no_neighbours(corpus):
    data, lists = corpus.data, some_lists()
    bare = ListTensors.gather(data, lists, Neighbours.none(len(data.image_emb)).of, CPU, in_bank=True)
    batch, _ = bare.batch(torch.arange(3))
    assert batch.neighbour_cosine.shape == (3, 4, 0)
    whole, _ = ListTensors.gather(data, lists, plain(len(data.image_emb)).of, CPU, in_bank=False).batch(torch.arange(3))
    model = ContextAwareRanker(RankerConfig(dim=data.dim, d_model=8, blocks=("concat", "cosine"))).eval()
    assert torch.equal(model(batch), model(whole))


def test_padding_is_finite_and_masked(corpus):
    data = corpus.data
    tensors = ListTensors.gather(data, some_lists(), plain(len(data.image_emb)).of, CPU, in_bank=False)
    batch, labels = tensors.batch(torch.arange(3))
    assert torch.equal(batch.mask, labels >= 0)
    assert torch.isfinite(batch.candidates).all()
    assert torch.isfinite(batch.cosine).all()


def test_in_the_bank_or_not(corpus):
    """A training list's own group is dropped from its candidates' neighbours, a test list's is not looked at."""
    data, lists = corpus.data, corpus.lists
    near = training_neighbours(data, "t2i", data.query_rows("t2i", "train"), np.arange(len(data.image_emb)))
    training = ListTensors.gather(data, lists, near.of, CPU, in_bank=True)
    use = ListTensors.gather(data, lists, near.of, CPU, in_bank=False)
    assert training.group.tolist() == query_groups(data, "t2i")[lists.query].tolist()
    assert set(use.group.tolist()) == {-1}
    without, _ = training.batch(torch.arange(40))
    everyone, _ = use.batch(torch.arange(40))
    assert without.neighbour_cosine.shape == everyone.neighbour_cosine.shape == (40, 30, 10)
    differing = 0
    for place, query in enumerate(lists.query[:40]):
        own = int(query_groups(data, "t2i")[query])
        for column, row in enumerate(lists.candidates[place]):
            pairs = list(zip(near.cosine[row].tolist(), near.group[row].tolist(), strict=True))
            assert without.neighbour_cosine[place, column].tolist() == [c for c, g in pairs if g != own][:10]
            assert everyone.neighbour_cosine[place, column].tolist() == [c for c, _ in pairs][:10]
            differing += any(g == own for _, g in pairs[:10])
    assert differing, "the case shows the difference"


def test_the_embeddings_are_copied_once_and_stay_float16(corpus):
    data = corpus.data
    tensors = ListTensors.gather(data, some_lists(), plain(len(data.image_emb)).of, CPU, in_bank=False)
    assert tensors.queries.dtype == tensors.candidates.dtype == torch.float16
    tensors.candidates.zero_()
    assert data.image_emb.any(), "the set itself is left alone"


def test_a_large_table_is_not_held_twice(corpus):
    """Formerly every row was copied out of the file, and then all of them once more."""
    images = np.zeros((4_000, 512), np.float16)
    data = replace(corpus.data, image_emb=images)
    rows = np.arange(4_000, dtype=np.int32).reshape(4, -1)
    lists = CandidateLists(
        np.arange(4, dtype=np.int32), rows, np.zeros(rows.shape, np.int8), np.zeros(rows.shape, np.float32),
        {"direction": "t2i", "split": "train", "fingerprint": "planted 0"},
    )  # fmt: skip
    tracemalloc.start()
    try:
        ListTensors.gather(data, lists, lambda rows: Neighbours.none(len(rows)), CPU, in_bank=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert images.nbytes < peak < 1.5 * images.nbytes


def test_the_tables_hold_what_the_lists_ask_for(corpus):
    data, lists = corpus.data, some_lists()
    asked = []
    near = plain(len(data.image_emb))
    tensors = ListTensors.gather(data, lists, lambda rows: asked.append(rows) or near.of(rows), CPU, in_bank=False)
    assert [rows.tolist() for rows in asked] == [list(range(8))]
    assert tensors.candidates.shape == (8, data.dim)
    assert tensors.queries.shape == (3, data.dim)
    assert tensors.places[1].tolist() == [0, -1, 3, -1]


def test_candidates_are_projected_once(corpus):
    data, lists = corpus.data, some_lists()
    tensors = ListTensors.gather(data, lists, Neighbours.none(len(data.image_emb)).of, CPU, in_bank=False)
    model = ContextAwareRanker(RankerConfig(dim=data.dim, d_model=8, blocks=("concat",))).eval()
    known = tensors.projected_by(model)
    assert known.projected.shape == (8, 8), "of as many candidates the first layer"
    bare = tensors.projected_by(Cosine())
    assert bare.projected is None
    assert bare.candidates.shape == (8, 0), "nobody looks at them"
    index = torch.arange(3)
    torch.testing.assert_close(model(known.batch(index)[0]), model(tensors.batch(index)[0]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("blocks", [("concat", "cosine"), ("concat", "product"), ("concat", "bilinear"), ("cosine",)])
def test_candidates_are_left_out_only_where_they_change_no_score(corpus, blocks):
    data = corpus.data
    tensors = ListTensors.gather(data, some_lists(), plain(len(data.image_emb)).of, CPU, in_bank=False)
    model = ContextAwareRanker(RankerConfig(dim=data.dim, d_model=8, blocks=blocks)).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    lean = tensors.projected_by(model)
    needed = "product" in blocks or "bilinear" in blocks
    assert lean.candidates.shape == (8, data.dim if needed else 0)
    (batch, _), (whole, _) = (x.batch(torch.arange(3)) for x in (lean, tensors))
    torch.testing.assert_close(model(batch), model(whole))


def test_joined_parts_keep_their_own_neighbours(corpus):
    """Lists of several fits: each part is gathered as it would be alone."""
    data, lists = corpus.data, some_lists()
    parts = [
        ListTensors.gather(data, lists, plain(len(data.image_emb)).of, CPU, in_bank=False, cosine=lists.cosine + shift)
        for shift in (0.0, 0.5, 1.0)
    ]
    joined = ListTensors.join(parts)
    assert len(joined) == 9
    for place, part in enumerate(parts):
        one, labels = part.batch(torch.arange(3))
        other, same = joined.batch(3 * place + torch.arange(3))
        for name in ("query", "cosine", "mask", "query_row", "rows"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        for name in ("candidates", "neighbour_cosine"):  # padding's are anything
            assert torch.equal(getattr(one, name)[one.mask], getattr(other, name)[one.mask]), name
        assert torch.equal(labels, same)
    assert ListTensors.join(parts[:1]) is parts[0]
    cut, _ = joined.first(4).batch(torch.tensor([3]))
    assert torch.equal(cut.neighbour_cosine, parts[1].batch(torch.tensor([0]))[0].neighbour_cosine)


def test_parts_of_other_lengths_are_padded(corpus):
    """Inner folds of a small set have galleries, and so lists, of their own size."""
    data, lists = corpus.data, some_lists()
    cut = CandidateLists(lists.query, *(a[:, :2] for a in (lists.candidates, lists.labels, lists.cosine)), lists.info)
    near = plain(len(data.image_emb))
    parts = [
        replace(ListTensors.gather(data, part, near.of, CPU, in_bank=False), features=torch.ones(3, part.length, 2))
        for part in (cut, lists)
    ]
    joined = ListTensors.join(parts)
    assert joined.rows.shape == joined.labels.shape == joined.cosine.shape == (6, 4)
    assert joined.rows[:3, 2:].tolist() == joined.labels[:3, 2:].tolist() == [[-1, -1]] * 3
    assert joined.features[:3, 2:].abs().sum() == 0
    assert joined.fold.tolist() == [0, 0, 0, 1, 1, 1]
    assert joined.first(4).fold.tolist() == [0, 0, 0, 1]
    assert joined.first(4).features.shape == (4, 4, 2)
    batch, _ = joined.batch(torch.arange(6))
    assert batch.mask[:3, 2:].sum() == 0


def test_parts_with_banks_of_other_sizes_are_joined(corpus):
    """A bank of fewer than ten queries has fewer neighbours to show."""
    data, lists = corpus.data, some_lists()
    few, more = (neighbours(data.image_emb, data.text_emb[:count]) for count in (4, 5))
    parts = [ListTensors.gather(data, lists, near.of, CPU, in_bank=False) for near in (few, more)]
    joined = ListTensors.join(parts)
    for start, part in zip((0, 3), parts, strict=True):
        one, other = joined.batch(torch.arange(start, start + 3))[0], part.batch(torch.arange(3))[0]
        width = other.neighbour_cosine.shape[-1]
        assert torch.equal(one.neighbour_cosine[one.mask][:, :width], other.neighbour_cosine[other.mask])
        assert bool((one.neighbour_cosine[one.mask][:, width:] == -torch.inf).all())
