"""What scorers that are trained on lists share."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rank_xmodal import scorers
from rank_xmodal.data.candidate_lists import CandidateLists
from rank_xmodal.errors import UserError
from rank_xmodal.scorers.list_trained import spread_of
from rank_xmodal.scorers.stack import TrainingPart, fit_stack


def test_the_spread_is_the_mean_standard_deviation_without_padding():
    tensors = SimpleNamespace(
        rows=torch.tensor([[0, 1, -1], [0, 1, 2]]), cosine=torch.tensor([[0.1, 0.3, 9.0], [0.0, 0.3, 0.6]])
    )
    assert spread_of(tensors) == pytest.approx((0.1 + np.std([0.0, 0.3, 0.6])) / 2, rel=1e-5)


def test_an_unknown_loss_is_told_the_nearest():
    with pytest.raises(UserError, match=r"loss='listnett': no such loss\. Did you mean 'listnet'\?"):
        scorers.get("context_aware", loss="listnett")


def test_parameters_of_the_loss_and_the_heads_are_checked_before_anything_is_done():
    with pytest.raises(UserError, match="has no parameter 'sigm'"):
        scorers.get("context_aware", loss="ranknet", loss_params={"sigm": 1})
    with pytest.raises(UserError, match="d_model=50 must be a multiple of heads=4"):
        scorers.get("context_aware", d_model=50)


def test_a_second_fit_on_more_lists_has_the_network_of_the_first(corpus, monkeypatch):
    """Between 4,000 and 4,999 lists train and val together would cross the line, and a block would join."""
    monkeypatch.setattr("rank_xmodal.scorers.context_aware.scorer.SMALL", len(corpus.lists))
    arrays = {name: getattr(corpus.lists, name)[:-1] for name in ("query", "candidates", "labels", "cosine")}
    fewer = CandidateLists(**arrays, info=corpus.lists.info)
    first = corpus.train(corpus.data, fewer, corpus.chosen(epochs=1)).scorer
    assert "bilinear" in first.network_config(24, 0.1, len(corpus.lists)).blocks
    parts = [TrainingPart(corpus.lists, corpus.data)]
    second = fit_stack(first.refitting(), corpus.data, "t2i", parts=parts, device=torch.device("cpu")).scorer
    assert second.network_of.blocks == first.network_of.blocks
    assert "bilinear" not in second.network_of.blocks
