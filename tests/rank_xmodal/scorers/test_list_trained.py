"""What scorers that are trained on lists share."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rank_xmodal import scorers
from rank_xmodal.errors import UserError
from rank_xmodal.scorers.list_trained import spread_of


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
