"""Sinkhorn scaling of a batch of matrices, with a backward pass that stores vectors and not matrices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import threshold

_NEGLIGIBLE = 1e-30
"""Entries below are taken as 0: a CPU needs several times longer for a product with a denormal number."""


def sinkhorn(matrix: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Scale square matrices towards row and column sums of 1.

    Args:
        matrix: (B, L, L), non-negative, no row or column without a positive entry.
        iterations: number of column-then-row normalisations. Always carried out: a test for convergence would have to
            ask the device at every step, and would let one list of a batch change the result of another.

    Returns:
        row: (B, L) and column: (B, L); the scaled matrix is row[:, :, None] * matrix * column[:, None, :].
    """
    row, column = _Sinkhorn.apply(matrix, iterations)
    return row, column


class _Sinkhorn(torch.autograd.Function):
    """The iteration c = 1 / (r K), r = 1 / (K c), on vectors.

    Autograd would keep, and pass through, four L x L matrices per iteration. Here each iteration is two products of a
    vector and a matrix, forwards and backwards, and the outer products that make up the gradient of K are summed at the
    end in one matrix product. K is kept beside its transpose because a row vector times a contiguous matrix is several
    times faster on a CPU than a matrix times a column vector.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
        matrix = threshold(matrix.contiguous(), _NEGLIGIBLE, 0.0)
        transposed = matrix.mT.contiguous()
        lists, length, _ = matrix.shape
        rows = matrix.new_ones(iterations + 1, lists, 1, length)
        columns = matrix.new_empty(iterations, lists, 1, length)
        # Views made all at once: an index costs a third of what a product does.
        for row, column, after in zip(rows[:-1].unbind(), columns.unbind(), rows[1:].unbind(), strict=True):
            torch.bmm(row, matrix, out=column).reciprocal_()
            torch.bmm(column, transposed, out=after).reciprocal_()
        ctx.save_for_backward(matrix, transposed, rows, columns)
        return rows[-1].squeeze(1).clone(), columns[-1].squeeze(1).clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_row: Tensor, d_column: Tensor) -> tuple[Tensor, None]:
        matrix, transposed, rows, columns = ctx.saved_tensors
        # d(1/x) = -dx / x^2, and the reciprocals are what was stored.
        row_slope, column_slope = rows[1:].square().neg_(), columns.square().neg_()
        d_row_sum, d_column_sum = torch.empty_like(columns), torch.empty_like(columns)
        steps = [tensor.unbind() for tensor in (row_slope, column_slope, d_row_sum, d_column_sum)]
        d_row, d_column = d_row.unsqueeze(1), d_column.unsqueeze(1)
        with torch.autocast(matrix.device.type, enabled=False):
            for number, (of_row, of_column, row_sum, column_sum) in enumerate(zip(*map(reversed, steps), strict=True)):
                torch.mul(d_row, of_row, out=row_sum)
                torch.bmm(row_sum, matrix, out=column_sum)
                if number == 0:  # the last column normalisation is also a result
                    column_sum += d_column
                d_row = torch.bmm(column_sum.mul_(of_column), transposed)
            from_rows = torch.bmm(_by_list(d_row_sum).mT, _by_list(columns))
            return torch.baddbmm(from_rows, _by_list(rows[:-1]).mT, _by_list(d_column_sum)), None


def _by_list(vectors: Tensor) -> Tensor:
    """(steps, B, 1, L) to (B, steps, L), as a view."""
    return vectors.squeeze(2).transpose(0, 1)
