"""Maps of one side."""

import torch

from rank_xmodal.scorers.projections.maps import Centred, Shifted


def test_centred_takes_the_mean_off():
    module = Centred(torch.tensor([1.0, 2.0]), torch.tensor([[3.0], [4.0]]))
    assert module(torch.tensor([[2.0, 4.0]])).tolist() == [[11.0]]


def test_shifted_takes_the_mean_off():
    assert Shifted(torch.tensor([1.0, 2.0]))(torch.tensor([[2.0, 4.0]])).tolist() == [[1.0, 2.0]]
