"""A relaxed sort made doubly stochastic by Sinkhorn scaling, with a backward pass that stores vectors, not matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import threshold

_NEGLIGIBLE = 1e-30
"""Entries below are taken as 0: a CPU needs several times longer for a product with a denormal number."""


def sinkhorn_sort(logits: Tensor, values: Tensor, iterations: int) -> Tensor:
    """Return P v, P being softmax(logits) by rows, scaled towards row and column sums of 1.

    Parameters
    ----------
    logits : Tensor (B, L, L)
        Floating point; no column without a finite entry.
    values : Tensor (B, L)
        Of the same type; a constant, no gradient reaches it.
    iterations : int
        Number of column-then-row normalisations. Always carried out: a test for convergence would have to ask the
        device at every step, and would let one list of a batch change the result of another.

    Returns
    -------
    Tensor (B, L)
    """
    apply: Callable[[Tensor, Tensor, int], Tensor] = _SinkhornSort.apply  # torch gives it no types
    return apply(logits, values, iterations)


class _SinkhornSort(torch.autograd.Function):
    """The iteration c = 1 / (r K), r = 1 / (K c) on vectors, then r (K (c v)).

    Autograd would keep, and pass through, four L x L matrices per iteration. Here each iteration is two products of a
    vector and a matrix, forwards and backwards, and the gradient of K, a sum of outer products, is one matrix product.
    K is kept beside its transpose because a row vector times a contiguous matrix is several times faster on a CPU than
    a matrix times a column vector.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, values: Tensor, iterations: int) -> Tensor:
        lists, length, _ = logits.shape
        # In one piece, which glibc's allocator keeps for the next step; of several it would give most back to the
        # system, and getting them anew would take a quarter of the time.
        memory = logits.new_empty(2 * lists * length * (length + 2 * iterations + 1))
        sizes = [lists * length * length] * 2 + [lists * length * (2 * iterations + 1)] * 2
        matrix, transposed, lefts, rights = torch.split(memory, sizes)
        matrix = torch.softmax(logits, -1, out=matrix.view_as(logits))
        threshold(matrix, _NEGLIGIBLE, 0.0, inplace=True)
        transposed = transposed.view_as(matrix).copy_(matrix.mT)
        # The factors of the outer products: first of r (r K), with the gradients of the sums r K still to come, then
        # of (K c) c, the other way round, and last of K (c v).
        lefts, rights = (part.view(2 * iterations + 1, lists, 1, length) for part in (lefts, rights))
        lefts[0] = 1
        # Views made all at once: an index costs a third of what a product does.
        row, *rows = lefts[:iterations].unbind()
        rows.append(torch.empty_like(row))
        for column, after in zip(rights[iterations:-1].unbind(), rows, strict=True):
            torch.bmm(row, matrix, out=column).reciprocal_()
            row = torch.bmm(column, transposed, out=after).reciprocal_()
        values = values.unsqueeze(1)
        sums = torch.bmm(torch.mul(rights[-2], values, out=rights[-1]), transposed)
        ctx.save_for_backward(matrix, transposed, lefts, rights, row, values, sums)
        return (row * sums).squeeze(1)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, None, None]:
        # Checked here as `once_differentiable` would let a constant d_out, and with it a wrong second derivative, pass.
        if torch.is_grad_enabled():
            raise RuntimeError("neuralndcg can't be differentiated twice: leave out create_graph=True.")
        matrix, transposed, lefts, rights, row, values, sums = ctx.saved_tensors
        lefts, rights = lefts.data, rights.data  # what is filled in here doesn't count as a change of what was saved
        d_out, iterations = d_out.unsqueeze(1), len(lefts) // 2
        rows, columns = [*lefts[1:iterations].unbind(), row], rights[iterations:-1].unbind()
        # d(1/x) = -dx / x^2, and the reciprocals are what was stored. The two signs of an iteration cancel; those of
        # the gradients of the sums K c are set at the end.
        less_row_sums, column_sums = lefts[iterations:-1].unbind(), rights[:iterations].unbind()
        with torch.autocast(matrix.device.type, enabled=False):
            d_row = d_out * sums
            last = torch.bmm(torch.mul(d_out, rows[-1], out=lefts[-1]), matrix).mul_(values)
            for t in reversed(range(iterations)):
                torch.mul(d_row, rows[t], out=less_row_sums[t]).mul_(rows[t])
                torch.bmm(less_row_sums[t], matrix, out=column_sums[t])
                if t == iterations - 1:  # the last c is used once more
                    column_sums[t].sub_(last)
                d_row = torch.bmm(column_sums[t].mul_(columns[t]).mul_(columns[t]), transposed)
            lefts[iterations:-1].neg_()
            gradient = torch.bmm(lefts.squeeze(2).permute(1, 2, 0), rights.squeeze(2).transpose(0, 1))
            gradient.mul_(matrix)  # and through the softmax
            return gradient.addcmul_(matrix, gradient.sum(-1, keepdim=True), value=-1), None, None
