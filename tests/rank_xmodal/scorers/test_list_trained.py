"""What scorers that are trained on lists share."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rank_xmodal import scorers
from rank_xmodal.data.candidate_lists import CandidateLists
from rank_xmodal.errors import UserError
from rank_xmodal.scorers.context_aware.scorer import ContextAware
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


@pytest.mark.parametrize("kind", ["concat", "embeddings"])
@pytest.mark.parametrize("lists", [1, 9_000])
def test_the_memory_of_a_network_is_no_less_than_that_of_its_weights_and_no_more_than_it_takes(kind, lists):
    scorer = scorers.get("context_aware", features=kind, layers=3, d_model=256, d_ff=512, batch_size=1)
    network = scorer.build(scorer.network_config(512, 0.1, lists))
    weights = sum(parameter.numel() for parameter in network.parameters())
    told = scorer.settings.memory(512, 1, 1) / 4 / 5
    assert 0.7 * weights < told < 1.01 * weights
    more = scorer.settings.memory(512, 1, 51) - scorer.settings.memory(512, 1, 1)
    assert more == 2 * 50 * 3 * (4 * 256 + 512)


@pytest.mark.parametrize("sizes", [{"d_model": 65_536}, {"d_ff": 1_000_000, "layers": 1_000}])
def test_a_network_beyond_the_memory_is_refused_before_it_is_built(corpus, monkeypatch, sizes):
    monkeypatch.setattr(ContextAware, "build", lambda *a: pytest.fail("built"))
    chosen = corpus.chosen(**{"layers": 100, "device": "cpu", **sizes})
    with pytest.raises(UserError, match=r"a network of this d_model, d_ff and layers takes at least .* cpu has"):
        corpus.train(corpus.data, corpus.lists_of(corpus.data), chosen)
