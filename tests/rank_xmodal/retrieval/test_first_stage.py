"""Codes are searched packed, and found as their signs would be; all else is multiplied."""

import numpy as np
import pytest

from rank_xmodal import scorers
from rank_xmodal.retrieval.exact import exact_cosine
from rank_xmodal.retrieval.first_stage import Opposite, of_codes, retriever_of
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.retrieval.hamming_retriever import HammingRetriever
from rank_xmodal.retrieval.quantisers import itq, lsh
from rank_xmodal.retrieval.query_bank import neighbours, training_neighbours
from rank_xmodal.retrieval.retriever import ExactRetriever, Unmapped

WIDTH = 24  # of the planted corpus


class Signs:
    """The signs of a quantiser as floats, as which nobody knows them for codes."""

    def __init__(self, space):
        self.space = space

    def map_queries(self, embeddings):
        return np.where(self.space.map_queries(embeddings) >= 0, 1, -1).astype(np.float32)

    def map_candidates(self, embeddings):
        return np.where(self.space.map_candidates(embeddings) >= 0, 1, -1).astype(np.float32)


class TwoSided:
    """Codes that are made another way on each side."""

    of_codes = True

    def __init__(self, bits):
        self.sides = lsh(WIDTH, bits, 1), lsh(WIDTH, bits, 2)

    def map_queries(self, embeddings):
        return self.sides[0](embeddings)

    def map_candidates(self, embeddings):
        return self.sides[1](embeddings)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (None, ExactRetriever),
        (Unmapped(), ExactRetriever),
        (Signs(lsh(WIDTH, 8)), ExactRetriever),
        (lsh(WIDTH, 8), HammingRetriever),
        (TwoSided(8), HammingRetriever),
        (Opposite(TwoSided(8)), HammingRetriever),
        (Opposite(Unmapped()), ExactRetriever),
    ],
)
def test_a_space_says_whether_it_is_one_of_codes(space, expected):
    assert type(retriever_of(space)) is expected


@pytest.mark.parametrize("name", scorers.names())
def test_of_the_scorers_two_make_codes(name):
    assert of_codes(scorers.class_of(name)) == (name in ("hash", "itq"))


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
@pytest.mark.parametrize("bits", [4, 19, 64])  # four bits: nearly everything is a tie
@pytest.mark.parametrize("depth", [1, 5, 51])
def test_a_gallery_is_ranked_as_by_the_product_of_signs(corpus, direction, bits, depth):
    data, space = corpus.data, TwoSided(bits)
    packed = rank_gallery(data, direction, "test", depth, space=space, first_stage="codes")
    signs = rank_gallery(data, direction, "test", depth, space=Signs(space), first_stage="codes")
    for field in ("query", "candidates", "labels", "cosine"):
        np.testing.assert_array_equal(getattr(packed.lists, field), getattr(signs.lists, field))
    assert packed.lists.info == signs.lists.info
    assert np.isfinite(packed.rank_below.numpy()).any()
    np.testing.assert_array_equal(packed.rank_below.numpy(), signs.rank_below.numpy())
    # Once more in plain NumPy: by the product, ties by row.
    asked, offered = data.queries(direction)[packed.lists.query], data.candidate_rows(direction, "test")
    product = Signs(space).map_queries(asked) @ Signs(space).map_candidates(data.candidates(direction)[offered]).T
    order = np.argsort(-product, axis=1, kind="stable")[:, :depth]
    np.testing.assert_array_equal(packed.lists.candidates, offered[order])
    cosine = exact_cosine(
        data.queries(direction), data.candidates(direction), packed.lists.query, packed.lists.candidates
    )
    np.testing.assert_array_equal(packed.lists.cosine, cosine, "CLIP's, whatever found the candidate")


def test_a_quantiser_of_the_training_candidates_ranks_a_gallery(corpus):
    data = corpus.data
    space = itq(np.asarray(data.image_emb[data.candidate_rows("t2i", "train")]), 16)
    found = rank_gallery(data, "t2i", "test", 10, space=space, first_stage="itq")
    signs = rank_gallery(data, "t2i", "test", 10, space=Signs(space), first_stage="itq")
    np.testing.assert_array_equal(found.lists.candidates, signs.lists.candidates)
    assert 0.1 < found.ceiling < rank_gallery(data, "t2i", "test", 10).ceiling, "chance is a tenth"


@pytest.mark.parametrize(("bits", "times"), [(24, 32), (48, 16), (96, 8)])
def test_packed_codes_are_d_times_32_over_bits_smaller(corpus, bits, times):
    images = np.asarray(corpus.data.image_emb, dtype=np.float32)
    packed = retriever_of(TwoSided(bits)).index(images)
    kept = {name: value for name, value in vars(packed).items() if isinstance(value, np.ndarray)}
    assert list(kept) == ["codes"]
    assert images.nbytes == times * packed.codes.nbytes == WIDTH * 32 / bits * packed.codes.nbytes


@pytest.mark.parametrize("bits", [5, 16, 70, 300])
def test_pairs_and_scores_are_those_of_the_signs(monkeypatch, bits):
    monkeypatch.setattr("rank_xmodal.retrieval.hamming._UNPACKED", 64)  # some queries at a time
    rng, space = np.random.default_rng(0), TwoSided(bits)
    queries, candidates = rng.normal(size=(2, 40, WIDTH))
    rows = rng.integers(0, 40, (40, 6))
    packed, signs = retriever_of(space).index(candidates), retriever_of(Signs(space)).index(candidates)
    top, score = packed.top(queries, 9)
    np.testing.assert_array_equal(packed.pairs(queries, top), score)
    np.testing.assert_array_equal(packed.pairs(queries, rows), signs.pairs(queries, rows))
    np.testing.assert_array_equal(list(packed.scores(queries)), list(signs.scores(queries)))
    assert packed.pairs(queries, rows).dtype == next(packed.scores(queries)).dtype == np.float32
    assert packed.pairs(queries[:0], rows[:0]).shape == (0, 6)


@pytest.mark.parametrize("space", [None, TwoSided(8)])
def test_asking_before_there_is_a_corpus_is_an_error(space):
    retriever, queries = retriever_of(space), np.ones((2, WIDTH))
    for call in (
        lambda: retriever.top(queries, 1),
        lambda: retriever.pairs(queries, np.zeros((2, 1), int)),
        lambda: next(iter(retriever.scores(queries))),
    ):
        with pytest.raises(RuntimeError, match="index comes before"):
            call()


def test_hubness_in_codes_is_that_of_the_signs(corpus):
    data, space = corpus.data, TwoSided(16)
    bank = data.query_rows("t2i", "train")[:50]
    signs, asked = Signs(space), data.text_emb[bank]
    plain = neighbours(signs.map_candidates(data.image_emb), signs.map_queries(asked))
    packed = neighbours(data.image_emb, asked, space=space)
    np.testing.assert_array_equal(packed.cosine.numpy(), plain.cosine.numpy())
    found, expected = (
        training_neighbours(data, "t2i", bank, np.arange(len(data.image_emb)), which) for which in (space, signs)
    )
    np.testing.assert_array_equal(found.cosine.numpy(), expected.cosine.numpy())
    np.testing.assert_array_equal(found.group.numpy(), expected.group.numpy())
