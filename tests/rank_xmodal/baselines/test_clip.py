"""The baseline `clip` is the first stage."""

import torch

from rank_xmodal.baselines import CLIP
from rank_xmodal.evaluation import first_stage, per_query


def test_it_is_the_cosine(corpus):
    batch = corpus.random_batch()
    assert torch.equal(CLIP().score(batch), batch.cosine)


def test_it_keeps_the_order_of_the_first_stage(corpus):
    stage = first_stage(corpus.data, "t2i", "test")
    scores = torch.from_numpy(stage.lists.cosine)
    assert torch.equal(scores, scores.sort(dim=1, descending=True).values)
    assert per_query(scores, stage)["R@1"].mean() > 0
