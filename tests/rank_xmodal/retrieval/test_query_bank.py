"""The query bank, against a search of everything in plain Python."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from rank_xmodal.lists.list_tensors import ListTensors
from rank_xmodal.retrieval.query_bank import (
    LARGEST,
    NEIGHBOURS,
    choose_bank,
    hubness,
    leave_out,
    neighbours,
    own_queries,
    query_groups,
    training_neighbours,
)

CPU = torch.device("cpu")
NONE = -math.inf


def cosine(a, b):
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def unit(n, d, seed):
    rows = np.random.default_rng(seed).normal(size=(n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


# --- hubness ---


@pytest.mark.parametrize(
    ("near", "expected"),
    [([0.4, 0.2], 0.3), ([0.4, NONE], 0.4), ([NONE, NONE], 0.0), ([-0.2, -0.4], -0.3), ([0.5], 0.5)],
    ids=["two", "one is missing", "none", "negative", "one"],
)
def test_hubness_is_the_mean_of_those_there_are(near, expected):
    assert float(hubness(torch.tensor(near))) == pytest.approx(expected)


def test_hubness_of_a_batch():
    found = hubness(torch.tensor([[[0.4, 0.2], [0.1, NONE]], [[NONE, NONE], [0.0, -1.0]]]))
    torch.testing.assert_close(found, torch.tensor([[0.3, 0.1], [0.0, -0.5]]))


# --- in use ---


@pytest.mark.parametrize("size", [4, 10, 40])
def test_neighbours_are_the_nearest_of_the_bank(size):
    candidates, bank = unit(15, 8, 0), unit(size, 8, 1)
    found = neighbours(candidates, bank)
    assert found.cosine.shape == found.group.shape == (15, min(size, NEIGHBOURS))
    assert found.cosine.dtype == torch.float32
    assert (found.group == -1).all(), "in use nobody's query stands in the bank"
    for row, candidate in enumerate(candidates):
        expected = sorted((cosine(candidate, query) for query in bank), reverse=True)[:NEIGHBOURS]
        assert found.cosine[row].tolist() == pytest.approx(expected, abs=1e-6)


# --- in training ---


def asking(corpus, asked_by=3):
    """Return a corpus of 5 images and 20 captions, the first `asked_by` of which belong to image 0."""
    rng = np.random.default_rng(3)
    owner = [0] * asked_by + [1 + k % 4 for k in range(20 - asked_by)]
    image, text = rng.normal(size=(5, 6)), rng.normal(size=(20, 6))
    text[:asked_by] = image[0] + 0.1 * text[:asked_by]
    pairs = list(zip(owner, range(20), strict=True))
    return corpus.embedding_set(image, text, pairs, ["train"] * 5, ["train"] * 20), owner


@pytest.mark.parametrize("asked_by", [1, 3, 12], ids=["one caption", "three captions", "most captions"])
def test_a_training_query_does_not_sit_in_its_own_candidates_bank(corpus, asked_by):
    """Image 0's own captions are by far the nearest to it; counted, they would make it look like a hub."""
    data, owner = asking(corpus, asked_by)
    found = training_neighbours(data, "t2i", np.arange(20), np.arange(5))
    own = [cosine(data.image_emb[0], data.text_emb[t]) for t in range(asked_by)]
    assert min(own) > 0.9
    for image in range(5):
        others = [t for t in range(20) if owner[t] != image]
        ranked = sorted(others, key=lambda t, image=image: -cosine(data.image_emb[image], data.text_emb[t]))
        kept = torch.isfinite(found.cosine[image])
        expected = [cosine(data.image_emb[image], data.text_emb[t]) for t in ranked][: int(kept.sum())]
        assert int(kept.sum()) >= min(NEIGHBOURS, len(others))
        assert found.cosine[image][kept].tolist() == pytest.approx(expected, abs=1e-6)
        assert found.group[image][kept].tolist() == [owner[t] for t in ranked][: int(kept.sum())]
        assert kept.tolist() == sorted(kept.tolist(), reverse=True), "those that are missing stand last"


def test_only_the_rows_of_the_bank_count(corpus):
    data, owner = asking(corpus)
    rows = np.array([1, 4, 7, 8, 15])
    found = training_neighbours(data, "t2i", rows, np.arange(5))
    for image in range(5):
        others = [cosine(data.image_emb[image], data.text_emb[t]) for t in rows if owner[t] != image]
        kept = found.cosine[image][torch.isfinite(found.cosine[image])]
        assert kept.tolist() == pytest.approx(sorted(others, reverse=True), abs=1e-6)


def test_the_other_direction(corpus):
    data, owner = asking(corpus)
    found = training_neighbours(data, "i2t", np.arange(5), np.arange(20))
    for text in range(20):
        others = [cosine(data.text_emb[text], data.image_emb[i]) for i in range(5) if i != owner[text]]
        kept = found.cosine[text][torch.isfinite(found.cosine[text])]
        assert kept.tolist() == pytest.approx(sorted(others, reverse=True), abs=1e-6)


def test_a_lists_own_query_and_siblings_count_for_none_of_its_candidates(corpus):
    """From the embeddings to the batch: for every list, hubness over the captions of neither its image nor the
    candidate."""
    data, owner = asking(corpus)
    tensors = ListTensors.gather(
        data,
        corpus.lists_of(data, depth=5),
        partial(training_neighbours, data, "t2i", np.arange(20)),
        CPU,
        in_bank=True,
    )
    batch, _ = tensors.batch(torch.arange(len(tensors)))
    assert len(tensors) == 20
    for place, query in enumerate(tensors.query_row.tolist()):
        for column, image in enumerate(tensors.rows[place].tolist()):
            others = [
                cosine(data.image_emb[image], data.text_emb[t])
                for t in range(20)
                if owner[t] not in (image, owner[query])
            ]
            expected = sorted(others, reverse=True)[:NEIGHBOURS]
            near = batch.neighbour_cosine[place, column]
            assert near[torch.isfinite(near)].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("query_group", "expected"),
    [(5, [0.8, 0.6, NONE, NONE]), (2, [0.9, 0.8, 0.7, NONE]), (-1, [0.9, 0.8, 0.7, 0.6]), (6, [0.9, 0.8, 0.7, 0.6])],
    ids=["two of its group", "one of its group", "no training query", "a group that is not near"],
)
def test_leave_out_drops_the_group(query_group, expected):
    near, group = torch.tensor([[[0.9, 0.8, 0.7, 0.6]]]), torch.tensor([[[5, 7, 5, 2]]])
    found = leave_out(near, group, torch.tensor([query_group]))
    assert found[0, 0].tolist() == pytest.approx(expected)


def test_leave_out_drops_nobody_of_unknown_group():
    near, group = torch.tensor([[[0.9, 0.8]]]), torch.tensor([[[-1, -1]]])
    assert leave_out(near, group, torch.tensor([-1]))[0, 0].tolist() == pytest.approx([0.9, 0.8])


def test_leave_out_refills_to_ten():
    near = torch.linspace(0.9, 0.1, 20).expand(2, 3, 20)
    group = torch.arange(20).expand(2, 3, 20).clone()
    group[0, :, 4:9] = 3  # with the one at place 3, six of list 0's own group
    found = leave_out(near, group, torch.tensor([3, 0]))
    kept = [k for k in range(20) if k not in range(3, 9)][:NEIGHBOURS]
    torch.testing.assert_close(found[0], near[0][:, kept])
    torch.testing.assert_close(found[1], near[1][:, 1:11])


def test_leave_out_of_a_mixed_batch_treats_every_list_by_its_own_group():
    near, group = torch.tensor([[0.9, 0.8]]).expand(2, 1, 2), torch.tensor([[1, 2]]).expand(2, 1, 2)
    found = leave_out(near, group, torch.tensor([1, -1]))
    assert found[0, 0].tolist() == pytest.approx([0.8, NONE])
    assert found[1, 0].tolist() == pytest.approx([0.9, 0.8])


# --- groups and choice ---


def test_groups_are_the_first_relevant_candidate(corpus):
    pairs = [(2, 0), (0, 1), (1, 1), (2, 3)]  # text 1 belongs to two images, text 2 to none
    data = corpus.embedding_set(np.eye(3, 4), np.eye(4), pairs, ["train"] * 3, ["train"] * 4)
    assert query_groups(data, "t2i").tolist() == [2, 0, -1, 2]
    assert query_groups(data, "i2t").tolist() == [1, 1, 0]


def test_the_bank_is_the_training_queries_when_they_are_few(corpus):
    for direction, table in (("t2i", corpus.data.texts), ("i2t", corpus.data.images)):
        expected = np.flatnonzero((table["split"] == "train").to_numpy())
        np.testing.assert_array_equal(choose_bank(corpus.data, direction), expected)
    assert len(corpus.data.texts) < LARGEST


def test_a_bank_is_bounded_and_its_seed_decides(corpus):
    first, again, other = (choose_bank(corpus.data, "t2i", largest=50, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != other.tolist()
    assert len(set(first.tolist())) == 50
    assert (np.diff(first) > 0).all()
    assert set(corpus.data.texts["split"].to_numpy()[first]) == {"train"}


def test_training_neighbours_leave_out_who_asks_for_the_candidate(corpus):
    rows = choose_bank(corpus.data, "t2i")
    images = np.array([0, 3, 150, 399])
    near = training_neighbours(corpus.data, "t2i", rows, images)
    scores = corpus.data.image_emb.astype(np.float64) @ corpus.data.text_emb[rows].astype(np.float64).T
    owner = corpus.data.relevance["image"].to_numpy()[rows]
    for place, image in enumerate(images):
        others = np.sort(scores[image][owner != image])[::-1][:10]
        np.testing.assert_allclose(near.cosine[place, :10].numpy(), others, atol=1e-6)
        assert image not in near.group[place].tolist()


def test_a_lists_own_query_and_its_siblings_are_left_out_of_its_candidates_hubness():
    cosine = torch.tensor([[[0.9, 0.8, 0.7, 0.6]]])
    group = torch.tensor([[[5, 7, 5, 2]]])
    found = leave_out(cosine, group, torch.tensor([5]))
    assert found[0, 0].tolist()[:2] == pytest.approx([0.8, 0.6])
    assert float(hubness(found)) == pytest.approx(0.7)
    assert float(hubness(leave_out(cosine, group, torch.tensor([-1])))) == pytest.approx(0.75)
    assert float(hubness(torch.full((1, 3), -math.inf))) == 0.0


def test_a_bank_is_bounded_and_repeats_with_its_seed(corpus):
    assert len(choose_bank(corpus.data, "t2i", largest=50, seed=1)) == 50
    np.testing.assert_array_equal(
        choose_bank(corpus.data, "t2i", largest=50), choose_bank(corpus.data, "t2i", largest=50)
    )
    assert set(corpus.data.texts["split"].to_numpy()[choose_bank(corpus.data, "t2i")]) == {"train"}


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_a_training_item_in_a_corpus_is_no_hub_by_its_own_queries(corpus, direction):
    """What a corpus of all items says of a training item is what training says of it."""
    data = corpus.data
    bank_rows = choose_bank(data, direction)
    bank = data.queries(direction)[bank_rows]
    rows = np.arange(len(data.candidates(direction)))
    own = own_queries(data, direction, rows, bank)
    wanted = np.asarray(data.relevance_matrix(direction)[bank_rows].T.todense()) > 0
    assert np.array_equal(np.asarray(own.todense()), wanted)
    found = neighbours(data.candidates(direction), bank, own).cosine
    training = training_neighbours(data, direction, bank_rows, rows).cosine[:, :10]
    torch.testing.assert_close(found, training)
    assert not torch.equal(found, neighbours(data.candidates(direction), bank).cosine)
    none = own_queries(data, direction, data.candidate_rows(direction, "test"), bank)
    assert none.nnz == 0


def test_a_query_with_a_twin_in_the_bank_is_known_again(corpus):
    data = corpus.data
    twin = np.array(data.text_emb)
    twin[1] = twin[0]
    data = replace(data, text_emb=twin)
    bank_rows = choose_bank(data, "t2i")
    own = own_queries(data, "t2i", np.arange(2), twin[bank_rows])
    assert own[0].indices.tolist() == own[1].indices.tolist() or {0, 1} <= set(own[0].indices.tolist())
    asked = data.relevance.set_index("text")["image"]
    for text in (0, 1):
        if asked[text] < 2:
            assert {0, 1} <= set(own[asked[text]].indices.tolist())


def test_training_neighbours_are_the_same_in_blocks(corpus, monkeypatch):
    bank, candidates = np.arange(0, 20, 2), np.arange(5)
    whole = training_neighbours(corpus.data, "t2i", bank, candidates)
    monkeypatch.setattr("rank_xmodal.retrieval.query_bank._BLOCK", 2)
    found = training_neighbours(corpus.data, "t2i", bank, candidates)
    assert whole.cosine.shape == found.cosine.shape == (5, 10)
    assert torch.equal(found.cosine, whole.cosine)
    assert torch.equal(found.group, whole.group)
