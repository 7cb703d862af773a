"""Dropout whose random numbers are bytes."""

import pytest
import torch

from rank_xmodal.scorers.context_aware.dropout import dropout

RATES = {
    "a tenth": (0.1, 26),
    "a half": (0.5, 128),
    "nine tenths": (0.9, 230),
    "tiny": (0.001, 0),
    "huge": (0.9999, 255),
}
FULL = (1 << 18,)


@pytest.mark.parametrize(("rate", "dropped"), RATES.values(), ids=RATES)
def test_the_rate_is_a_multiple_of_a_256th_and_the_scale_follows(rate, dropped):
    torch.manual_seed(0)
    y = dropout(torch.ones(FULL), rate)
    share = float((y == 0).float().mean())
    error = (dropped / 256 * (1 - dropped / 256) / FULL[0]) ** 0.5
    assert share == pytest.approx(dropped / 256, abs=5 * error)
    assert set(y[y != 0].tolist()) == {torch.tensor(256 / (256 - dropped)).item()}
    assert float(y.mean()) == pytest.approx(1.0, abs=5 * error * 256 / (256 - dropped) + 1e-6)


def test_every_byte_of_a_word_is_as_random_as_the_others():
    """The default range of random_ leaves the sign bit at 0, and with it every eighth byte below 128."""
    torch.manual_seed(0)
    y = dropout(torch.ones(1 << 17, 8), 0.5)
    torch.testing.assert_close((y == 0).float().mean(0), torch.full((8,), 0.5), atol=0.01, rtol=0)
    both = ((y[:, :-1] == 0) & (y[:, 1:] == 0)).float().mean(0)
    torch.testing.assert_close(both, torch.full((7,), 0.25), atol=0.01, rtol=0)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 4, 51, 51), (0,), (3, 0, 2)], ids=str)
def test_any_shape(shape):
    torch.manual_seed(0)
    y = dropout(torch.full(shape, 3.0), 0.5)
    assert y.shape == shape
    assert set(y.reshape(-1).tolist()) <= {0.0, 6.0}


def test_a_tensor_that_is_not_contiguous():
    torch.manual_seed(0)
    x = torch.arange(1.0, 36).view(5, 7).T
    y = dropout(x, 0.5)
    assert ((y == 0) | (y == 2 * x)).all()
    assert 0 < int((y == 0).sum()) < 35


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9999])
def test_any_dtype_drops_the_same_places(dtype, rate):
    torch.manual_seed(4)
    expected = dropout(torch.ones(40_001), rate)
    torch.manual_seed(4)
    found = dropout(torch.ones(40_001, dtype=dtype), rate)
    assert found.dtype == dtype
    assert torch.equal(found == 0, expected == 0)
    torch.testing.assert_close(found.float(), expected, rtol=1e-2, atol=0)


def test_the_gradient_passes_where_the_value_did():
    torch.manual_seed(0)
    x = torch.randn(3, 51, requires_grad=True)
    y = dropout(x, 0.3)
    weight = torch.randn(3, 51)
    (y * weight).sum().backward()
    torch.testing.assert_close(x.grad, weight * y.detach() / x.detach())
    assert torch.equal(x.grad == 0, y == 0)


def test_the_seed_decides_and_two_draws_differ():
    x = torch.ones(1_000)
    torch.manual_seed(3)
    first = dropout(x, 0.5)
    second = dropout(x, 0.5)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5), first)
    assert torch.equal(dropout(x, 0.5), second)
    assert not torch.equal(first, second)


def test_nothing_is_dropped_at_rate_0_and_the_input_stays():
    x = torch.ones(50)
    assert dropout(x, 0.0) is x
    dropout(x, 0.9)
    assert torch.equal(x, torch.ones(50))
