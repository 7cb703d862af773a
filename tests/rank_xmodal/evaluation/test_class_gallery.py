"""Average precision by class over a whole gallery, against loops in plain Python."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rank_xmodal.errors import UserError
from rank_xmodal.evaluation import class_gallery
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.retrieval.retriever import Unmapped
from tests.rank_xmodal.evaluation.test_class_level import ONE, SEVERAL, labelled, truth


@pytest.fixture(params=["t2i", "i2t"])
def direction(request):
    return request.param


def average_precision(order, relevant):
    """The mean over relevant items of the share of relevant ones among what stands there or before."""
    hits, found = 0, 0.0
    for place, item in enumerate(order, start=1):
        if relevant[item]:
            hits += 1
            found += hits / place
    return found / max(1, sum(relevant))


@pytest.mark.parametrize("names", [ONE, SEVERAL, ("only",)])
@pytest.mark.parametrize("depth", [1, 7, 1_000])
def test_a_list_goes_before_the_first_stages_order_of_the_rest(corpus, direction, names, depth):
    data = labelled(corpus, names)
    stage = rank_gallery(data, direction, "test", depth=depth)
    scores = torch.from_numpy(np.random.default_rng(1).normal(size=stage.lists.candidates.shape))
    rows, gallery, shares = truth(data, direction)
    expected = []
    for i, query in enumerate(rows):
        listed = stage.lists.candidates[i]
        cosine = data.candidates(direction)[gallery].astype(np.float64) @ data.queries(direction)[query].astype(float)
        rest = [item for item in np.argsort(-cosine) if gallery[item] not in listed]
        first = [int(np.flatnonzero(gallery == listed[place])[0]) for place in np.argsort(-scores[i].numpy())]
        expected.append(average_precision([*first, *rest], shares[i].tolist()))
    found = class_gallery.of_lists(data, stage, {"own": scores}, Unmapped())["own"]
    assert found.tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("split", [None, "train"])
def test_a_space_ranks_the_whole_gallery_also_another_splits(corpus, direction, split, monkeypatch):
    data = labelled(corpus, SEVERAL)

    class Turned:
        """Another order than the encoder's."""

        def map_queries(self, embeddings):
            return np.asarray(embeddings, dtype=np.float32)[:, ::-1].copy()

        def map_candidates(self, embeddings):
            return np.asarray(embeddings, dtype=np.float32)

    stage = rank_gallery(data, direction, "test", depth=3)
    rows, _, _ = truth(data, direction)
    asked, offered = (data.texts, data.images) if direction == "t2i" else (data.images, data.texts)
    gallery = np.flatnonzero(offered["split"] == (split or "test"))
    expected = []
    for query in rows:
        own = {*asked["labels"][query].split("|")}
        shares = [bool(own & {*offered["labels"][row].split("|")}) for row in gallery]
        turned = data.queries(direction)[query].astype(np.float32)[::-1]
        scores = data.candidates(direction)[gallery].astype(np.float32) @ turned
        expected.append(average_precision(np.argsort(-scores), shares))
    found = class_gallery.of_space(data, stage, Turned(), split)
    assert found.tolist() == pytest.approx(expected, abs=1e-9)
    monkeypatch.setattr(class_gallery, "_CELLS", 50)  # blocks of few queries
    assert torch.equal(class_gallery.of_space(data, stage, Turned(), split), found)


def test_of_equal_scores_what_is_not_relevant_goes_first(corpus, direction):
    data = labelled(corpus, ONE)

    class Flat:
        """Tells nothing apart."""

        def map_queries(self, embeddings):
            return np.ones((len(embeddings), 1), dtype=np.float32)

        map_candidates = map_queries

    stage = rank_gallery(data, direction, "test", depth=2)
    _, _, shares = truth(data, direction)
    worst = [average_precision(np.argsort(own, kind="stable"), own.tolist()) for own in shares]
    assert class_gallery.of_space(data, stage, Flat()).tolist() == pytest.approx(worst)


def test_a_set_without_classes_is_told(corpus, direction):
    data = labelled(corpus, ONE)
    data = replace(data, images=data.images.drop(columns="labels"), texts=data.texts.drop(columns="labels"))
    with pytest.raises(UserError, match="has no classes"):
        class_gallery.of_space(data, rank_gallery(data, direction, "test"), Unmapped())
