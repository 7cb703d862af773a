"""LambdaRank: RankNet's pairs, each weighted by what swapping its items would change in NDCG."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rank_xmodal.losses._dcg import discounts, gains, ideal_dcg, ranks
from rank_xmodal.losses._lists import Reduction, check_count, check_positive, prepare, reduce
from rank_xmodal.losses._pairs import distance, preferred_pairs


def lambdarank(
    scores: Tensor, labels: Tensor, *, sigma: float = 1.0, k: int | None = None, reduction: Reduction = "mean"
) -> Tensor:
    r"""LambdaRank as a loss: the pair weights are constants at the current ranks.

    .. math:: \sum_{y_i > y_j} |\Delta \mathrm{NDCG@}k_{ij}| \log(1 + e^{-\sigma (s_i - s_j)}), \quad
              |\Delta_{ij}| = \frac{|2^{y_i} - 2^{y_j}| \, |D(r_i) - D(r_j)|}{\mathrm{IDCG@}k}

    with D(r) = 1 / log2(1 + r) for r <= k and 0 below. A pair counts when either of its items stands in the top k, so a
    positive at rank 31 still climbs when k = 10; only pairs entirely below k weigh nothing.

    Among equal scores the lower label is taken to stand higher, as the metrics here have it: the loss does not depend
    on the order in which a list is stored.

    Parameters
    ----------
    scores : Tensor (B, L)
        Floating point; at least float32 is used inside.
    labels : Tensor (B, L)
        Any dtype, binary or graded; -1 is padding.
    sigma : float
        Steepness, above 0.
    k : int | None
        Truncation of NDCG, None for the whole list.
    reduction : {"mean", "none"}
        "mean" over the lists with two different labels, or "none" for (B,) with 0 for the other lists.

    Returns
    -------
    Tensor
        A scalar, or (B,).

    Raises
    ------
    ValueError
        A wrong shape, dtype, score, label, sigma, k or reduction.

    References
    ----------
    Burges, Ragno and Le, Learning to Rank with Nonsmooth Cost Functions, NeurIPS 2006; as a loss, Wang et al., The
    LambdaLoss Framework for Ranking Metric Optimization, CIKM 2018, doi:10.1145/3269206.3271784.

    Examples
    --------
    51 equal scores, one relevant item.

    >>> import torch
    >>> lambdarank(torch.zeros(1, 51), torch.eye(51)[:1])
    tensor(2.8603)
    """
    check_positive("sigma", sigma)
    check_count("k", k)
    scores, labels, valid = prepare(scores, labels, reduction)
    pairs = preferred_pairs(scores, labels, valid)

    gain = gains(labels)
    discount = discounts(scores.shape[1], k, like=scores)
    ideal = ideal_dcg(gain, discount)
    informative = pairs.mask.any(dim=2).any(dim=1)

    discount_of = discount[ranks(scores, labels, valid)]
    gain_of = gain / torch.where(informative, ideal, 1.0)[:, None]
    weight = distance(gain_of, pairs.preferred) * distance(discount_of, pairs.preferred)

    per_pair = torch.where(pairs.mask, -weight * logsigmoid(sigma * pairs.difference), 0.0)
    return reduce(per_pair.sum(dim=(1, 2)), informative, reduction)
