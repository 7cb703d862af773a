"""NeuralNDCG: NDCG of a relaxed sort."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rank_xmodal.losses._dcg import discounts, gains, ideal_dcg
from rank_xmodal.losses._lists import Reduction, check_count, check_positive, prepare, reduce
from rank_xmodal.losses._sinkhorn import sinkhorn_sort

_MOST_ITERATIONS = 10_000  # all are kept for the gradient: of 64 lists of 51 these are half a gigabyte


def neuralndcg(
    scores: Tensor,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    k: int | None = None,
    iterations: int = 50,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""NeuralNDCG, the deterministic variant, as minus a relaxed NDCG.

    .. math:: -\frac{1}{\mathrm{IDCG@}k} \sum_{r \le k} \frac{(\hat P g)_r}{\log_2(1 + r)}, \quad g_i = 2^{y_i} - 1

    P is NeuralSort's relaxed permutation, row r being softmax(((n + 1 - 2r) s - A 1) / T) with A_ij = |s_i - s_j|, made
    doubly stochastic by Sinkhorn scaling. It tends to the true permutation, and the loss to minus NDCG@k, as T falls or
    the scores spread out. The gradient then tends to zero, for a badly ranked positive as for a well ranked one: keep
    the spread of the scores within a few T.

    Parameters
    ----------
    scores : Tensor (B, L)
        Floating point; at least float32 is used inside.
    labels : Tensor (B, L)
        Any dtype, binary or graded; -1 is padding.
    temperature : float
        T, above 0.
    k : int | None
        Truncation of NDCG, None for the whole list.
    iterations : int
        Sinkhorn steps, each a column and a row normalisation; at most 10,000.
    reduction : {"mean", "none"}
        "mean" over the lists with a relevant item, or "none" for (B,) with 0 for the other lists.

    Returns
    -------
    Tensor
        A scalar, or (B,), between -1 and 0.

    Raises
    ------
    ValueError
        A wrong shape, dtype, score, label, temperature, k, iterations or reduction.

    References
    ----------
    Pobrotyn and Białobrzeski, NeuralNDCG: Direct Optimisation of a Ranking Metric via Differentiable Relaxation of
    Sorting, arXiv:2102.07831.

    Examples
    --------
    51 equal scores, one relevant item: minus the mean of 51 discounts.

    >>> import torch
    >>> neuralndcg(torch.zeros(1, 51), torch.eye(51)[:1])
    tensor(-0.2563)
    """
    check_positive("temperature", temperature)
    check_count("k", k)
    if iterations is None:
        raise ValueError("iterations is None: pass an integer of at least 1, e.g. 50")
    check_count("iterations", iterations)
    if iterations > _MOST_ITERATIONS:
        raise ValueError(f"iterations is {iterations}: pass at most {_MOST_ITERATIONS:,}, e.g. 50")
    scores, labels, valid = prepare(scores, labels, reduction)
    gain = gains(labels)
    discount = discounts(scores.shape[1], k, like=scores)
    ideal = ideal_dcg(gain, discount)
    informative = ideal > 0
    # Half precision is too coarse for the sums over |s_i - s_j|, and autocast would choose it for the products.
    with torch.autocast(scores.device.type, enabled=False):
        # Only P g is needed, so the scaled matrix is never formed.
        sorted_gain = sinkhorn_sort(_neural_sort_logits(scores / temperature, valid), gain, iterations)
    dcg = (sorted_gain * discount).sum(dim=1)
    return reduce(-dcg / torch.where(informative, ideal, 1.0), informative, reduction)


def _neural_sort_logits(scores: Tensor, valid: Tensor) -> Tensor:
    """Logits of NeuralSort over the n valid items of each list: (B, L) to (B, L, L), row = rank, column = item.

    Ranks 1 to n meet only valid items and the other ranks only padding, wherever in the list it stands, so that the
    padded block is a doubly stochastic matrix of its own and takes nothing from the rest.
    """
    weight = valid.to(scores.dtype)
    count = weight.sum(dim=1, keepdim=True)
    # Adding a number to all scores of a list adds a number to each row, which softmax ignores: centring costs no
    # gradient and keeps float32 away from differences of large numbers.
    centre = (scores.detach() * weight).sum(dim=1, keepdim=True) / count.clamp(min=1)
    scores = torch.where(valid, scores - centre, 0.0)

    sign = (scores.detach()[:, :, None] - scores.detach()[:, None, :]).sign_()
    absolute_differences: Callable[[Tensor, Tensor], Tensor] = _AbsoluteDifferences.apply  # torch gives it no types
    spread = absolute_differences(scores, sign.mul_(weight[:, :, None]).mul_(weight[:, None, :]))

    rank = torch.arange(1, scores.shape[1] + 1, dtype=scores.dtype, device=scores.device)
    is_rank = (rank <= count).to(scores.dtype)
    slope = is_rank * (count + 1 - 2 * rank)
    # Minus infinity where a rank meets padding, by products: to choose between two numbers takes several times longer.
    bias = (is_rank[:, :, None] - weight[:, None, :]).abs_().mul_(-torch.finfo(scores.dtype).max).mul_(2)
    left = torch.stack([slope, torch.ones_like(slope)], dim=2)
    right = torch.stack([scores, -spread], dim=1)
    return bias.baddbmm_(left, right)


class _AbsoluteDifferences(torch.autograd.Function):
    """sum_j |s_i - s_j| = sum_j sign_ij (s_i - s_j), the derivative of |.| at 0 being 0: (B, L), (B, L, L) -> (B, L).

    As sign_ji = -sign_ij, both passes multiply a row vector by a contiguous matrix, which on a CPU is several times
    faster than a matrix by a column vector.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, sign: Tensor) -> Tensor:
        total = sign.sum(dim=2)
        ctx.save_for_backward(sign, total)
        return total * scores + torch.bmm(scores[:, None], sign).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        sign, total = ctx.saved_tensors
        with torch.autocast(sign.device.type, enabled=False):
            return total * gradient - torch.bmm(gradient[:, None], sign).squeeze(1), None
