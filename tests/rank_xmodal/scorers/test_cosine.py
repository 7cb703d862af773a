"""The scorer `clip` is the first stage."""

import torch

from rank_xmodal.evaluation.judging import per_query
from rank_xmodal.retrieval.gallery import rank_gallery
from rank_xmodal.scorers.cosine import Cosine


def test_it_is_the_cosine(corpus):
    batch = corpus.random_batch()
    assert torch.equal(Cosine().score(batch), batch.cosine)


def test_it_keeps_the_order_of_the_first_stage(corpus):
    stage = rank_gallery(corpus.data, "t2i", "test")
    scores = torch.from_numpy(stage.lists.cosine)
    assert torch.equal(scores, scores.sort(dim=1, descending=True).values)
    assert per_query(scores, stage)["R@1"].mean() > 0
