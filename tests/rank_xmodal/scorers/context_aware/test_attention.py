"""Attention with dropout on its weights, against plain operations under autograd."""

import pytest
import torch

from rank_xmodal.scorers.context_aware import attention as module
from rank_xmodal.scorers.context_aware.attention import attention


def plain(qkv, heads, keep, scale, mask):
    """The definition, given what dropout keeps, (B, H, L, L)."""
    lists, length, width = qkv.shape
    q, k, v = qkv.view(lists, length, 3, heads, width // 3 // heads).permute(2, 0, 3, 1, 4)
    logits = q @ k.mT / q.shape[-1] ** 0.5
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None, None, :], -torch.inf)
    return (logits.softmax(-1) * keep * scale @ v).transpose(1, 2).reshape(lists, length, width // 3)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5])
@pytest.mark.parametrize(
    ("lists", "length", "heads", "width"), [(3, 7, 4, 16), (1, 5, 2, 8), (1, 1, 1, 4), (2, 51, 2, 8)]
)
def test_values_and_gradients_are_those_of_plain_operations(lists, length, heads, width, rate, masked, monkeypatch):
    torch.manual_seed(0)
    qkv = torch.randn(lists, length, 3 * width, dtype=torch.float64, requires_grad=True)
    mask = (torch.rand(lists, length) < 0.7).index_fill(1, torch.tensor([0]), True) if masked else None
    drawn = []
    kept = module.kept

    def noted(shape, rate):
        drawn.append(kept(shape, rate))
        return drawn[-1]

    monkeypatch.setattr(module, "kept", noted)
    found = attention(qkv, heads, rate, mask)
    ((keep, scale),) = drawn
    keep = torch.ones(()) if keep is None else keep.view(lists, heads, length, length)
    expected = plain(qkv, heads, keep, scale, mask)
    torch.testing.assert_close(found, expected)
    slope = torch.randn_like(expected)
    (gradient,), (wanted,) = (torch.autograd.grad(out, qkv, slope) for out in (found, expected))
    torch.testing.assert_close(gradient, wanted)
    if masked:
        _, k, v = gradient.detach().view(lists, length, 3, width).unbind(2)
        assert not k[~mask].any()
        assert not v[~mask].any()


def test_nothing_is_dropped_at_rate_zero_and_much_at_a_high_rate():
    torch.manual_seed(0)
    qkv = torch.randn(4, 20, 48)
    assert torch.equal(attention(qkv, 4, 0.0, None), attention(qkv, 4, 0.0, None))
    assert not torch.equal(attention(qkv, 4, 0.5, None), attention(qkv, 4, 0.5, None))
    torch.manual_seed(1)
    first = attention(qkv, 4, 0.5, None)
    torch.manual_seed(1)
    assert torch.equal(first, attention(qkv, 4, 0.5, None))


def test_its_mean_is_the_attention_without_dropout():
    torch.manual_seed(0)
    qkv = torch.randn(1, 5, 12)
    many = attention(qkv.expand(40_000, -1, -1).contiguous(), 2, 0.25, None)
    error = many.std(0) / 200
    assert ((many.mean(0) - attention(qkv, 2, 0.0, None)[0]).abs() < 5 * error + 1e-6).all()


def test_no_list_at_all_has_an_empty_gradient():
    qkv = torch.zeros(0, 10, 48, requires_grad=True)
    attention(qkv, 4, 0.0, None).sum().backward()
    assert qkv.grad.shape == (0, 10, 48)
