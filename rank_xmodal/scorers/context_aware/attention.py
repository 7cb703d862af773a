"""Self-attention within short lists on a CPU, where PyTorch's fused kernel is slow and knows no dropout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rank_xmodal.scorers.context_aware.dropout import kept


def attention(qkv: Tensor, heads: int, rate: float, mask: Tensor | None) -> Tensor:
    """Return dropout(softmax(q k^T / sqrt(e))) v, every head on its own.

    The same as in plain operations, in three fifths of their time (32 x 51 x 64, two threads, measured): scales go into
    the products, and the gradient of the softmax takes the sum over a row from the outputs, as in FlashAttention (Dao
    et al. 2022, arXiv 2205.14135, appendix B.2), so that it needs two passes over the weights.

    Parameters
    ----------
    qkv : Tensor (B, L, 3 d), float32
        Queries, keys and values beside one another, each with its heads beside one another.
    heads : int
        A divisor of d; e = d / heads.
    rate : float in [0, 1)
        Of the dropout; see `dropout`.
    mask : Tensor (B, L) of bool, or None
        False where a key may not be seen. No row may be all False.

    Returns
    -------
    Tensor (B, L, d)
    """
    seen: Tensor = _Attention.apply(qkv, heads, rate, mask)  # type: ignore[no-untyped-call]
    return seen


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int, rate: float, mask: Tensor | None) -> Tensor:
        lists, length, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        each, matrices = width // heads, lists * heads
        q, k, v = qkv.view(lists, length, 3, heads, each).permute(2, 0, 3, 1, 4).reshape(3, matrices, length, each)
        if mask is None:
            logits = _product(q, k.mT, each**-0.5)
        else:
            logits = _bias(mask, heads, q.dtype).baddbmm_(q, k.mT, alpha=each**-0.5)
        weights = logits.softmax(-1)
        keep, scale = kept(weights.shape, rate)
        seen = weights if keep is None else keep.to(weights.dtype).mul_(weights)
        out = _product(seen, v, scale).view(lists, heads, length, each).transpose(1, 2).reshape(lists, length, width)
        ctx.save_for_backward(q, k, v, weights, seen, out)
        ctx.scale, ctx.shape = scale, (lists, length, heads, each)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, None, None, None]:
        q, k, v, weights, seen, out = ctx.saved_tensors
        lists, length, heads, each = ctx.shape
        # For each query the sum over keys of weight times its gradient: the product of the output and its gradient.
        total = (d_out * out).view(lists, length, heads, each).sum(-1).transpose(1, 2).reshape(-1, length, 1)
        d_out = d_out.view(lists, length, heads, each).transpose(1, 2).reshape(v.shape)
        d_logits = _product(d_out, v.mT, ctx.scale).mul_(seen).addcmul_(weights, total, value=-1)
        parts = [
            _product(d_logits, k, each**-0.5),
            _product(d_logits.mT, q, each**-0.5),
            _product(seen.mT, d_out, ctx.scale),
        ]
        gradient = torch.stack(parts).view(3, lists, heads, length, each)
        return gradient.permute(1, 3, 0, 2, 4).reshape(lists, length, 3 * heads * each), None, None, None


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return scale a b, (N, n, m) and (N, m, p) -> (N, n, p), without a pass for the scale."""
    return torch.baddbmm(a.new_zeros(()).expand(len(a), a.shape[1], b.shape[2]), a, b, beta=0, alpha=scale)


def _bias(mask: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """Return what hides the keys where the mask (B, L) is False: (B heads, L, L), 0 or minus infinity."""
    lists, length = mask.shape
    hidden = torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, -torch.inf)
    bias = hidden.new_empty(lists, heads, length, length).copy_(hidden[:, None, None, :])
    return bias.view(lists * heads, length, length)
