"""The ranked gallery in a space of its own."""

from dataclasses import replace

import numpy as np
import pytest

from rank_xmodal.errors import UserError
from rank_xmodal.retrieval.exact import exact_cosine
from rank_xmodal.retrieval.gallery import RankedGallery, has_split, rank_gallery


class Turned:
    """A space in which candidates are compared with what lies opposite of them."""

    def map_queries(self, embeddings):
        return -np.asarray(embeddings, dtype=np.float32)

    def map_candidates(self, embeddings):
        return np.asarray(embeddings, dtype=np.float32)


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_another_space_finds_other_candidates_and_keeps_clips_cosines(corpus, direction):
    data = corpus.data
    size = len(data.candidate_rows(direction, "test"))
    plain = rank_gallery(data, direction, "test", depth=size)
    turned = rank_gallery(data, direction, "test", depth=size, space=Turned(), first_stage="turned")
    # All of it, from behind. Ties come by row in both.
    ascending = np.sort(plain.lists.cosine, axis=1)
    np.testing.assert_allclose(turned.lists.cosine, ascending, atol=1e-6)
    expected = exact_cosine(
        data.queries(direction), data.candidates(direction), turned.lists.query, turned.lists.candidates
    )
    np.testing.assert_array_equal(turned.lists.cosine, expected)
    assert turned.lists.info["first_stage"] == "turned"
    assert plain.lists.info["first_stage"] == "clip"


def test_the_rank_below_a_list_is_that_in_the_space_which_made_it(corpus):
    data = corpus.data
    size = len(data.candidate_rows("t2i", "test"))
    whole = rank_gallery(data, "t2i", "test", depth=size, space=Turned())
    short = rank_gallery(data, "t2i", "test", depth=5, space=Turned())
    first = (whole.lists.labels > 0).argmax(axis=1) + 1
    missed = np.isfinite(short.rank_below.numpy())
    assert missed.any()
    np.testing.assert_array_equal(short.rank_below.numpy()[missed], first[missed])


def test_mined_lists_are_judged_by_their_own_labels(corpus):
    gallery = RankedGallery.of_mined(corpus.lists)
    assert gallery.n_relevant.tolist() == (corpus.lists.labels > 0).sum(axis=1).tolist()
    assert gallery.size == corpus.lists.length


def test_a_split_without_queries_is_none(corpus):
    assert has_split(corpus.data, "t2i", "val")
    assert not has_split(corpus.data, "t2i", "valley")


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_what_ties_with_a_list_ranks_below_it(corpus, direction):
    """Equal embeddings have sums that differ in the last bit, by where they stand in the matrix."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        sides = [rng.normal(size=(9, 23))[rng.integers(0, 9, 50)] for _ in range(2)]
        pairs = np.unique(rng.integers(0, 50, (60, 2)), axis=0)
        data = corpus.embedding_set(*sides, pairs, ["test"] * 50, ["test"] * 50)
        found = rank_gallery(data, direction, "test", depth=4)
        cosine = exact_cosine(
            data.queries(direction),
            data.candidates(direction),
            found.lists.query,
            np.tile(np.arange(50), (len(found.lists), 1)),
        )
        relevant = data.relevance_matrix(direction)[found.lists.query].toarray() > 0
        best = np.where(relevant, cosine, -np.inf).max(axis=1, keepdims=True)
        below = 1 + ((cosine >= best) & ~relevant).sum(axis=1)
        missed = ~(found.lists.labels > 0).any(axis=1)
        np.testing.assert_array_equal(found.rank_below.numpy(), np.where(missed, below, np.inf))
        assert (found.rank_below.numpy() > 4).all()


def test_a_split_whose_captions_are_in_another_is_refused(corpus):
    data = corpus.data
    moved = {side: getattr(data, side).assign(split=getattr(data, side)["split"].replace("val", "test"))
             for side in ("images", "texts")}  # fmt: skip
    for direction, side in (("t2i", "texts"), ("i2t", "images")):
        with pytest.raises(UserError, match=f"no {direction} query of split 'val' has a relevant candidate.*another"):
            rank_gallery(replace(data, **{side: moved[side]}), direction, "val")
