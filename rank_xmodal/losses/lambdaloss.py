"""LambdaLoss: pairs weighted so that the loss bounds the NDCG that is lost."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rank_xmodal.losses._dcg import discounts, gains, ideal_dcg, ranks
from rank_xmodal.losses._lists import Reduction, above_lowest, check_count, check_positive, prepare, reduce
from rank_xmodal.losses._pairs import Pairs, distance, preferred_pairs

_WEIGHTINGS = ("ndcg2++", "ndcg2", "ndcg1")


def lambdaloss(
    scores: Tensor,
    labels: Tensor,
    *,
    weighting: Literal["ndcg2++", "ndcg2", "ndcg1"] = "ndcg2++",
    mu: float = 10.0,
    sigma: float = 1.0,
    k: int | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""NDCG-Loss1, NDCG-Loss2 and NDCG-Loss2++: the pair weights are constants at the current ranks.

    .. math:: \sum_{i, j} w_{ij} \log(1 + e^{-\sigma (s_i - s_j)})

    With G = (2^y - 1) / IDCG@k, D(r) = 1 / log2(1 + r) and the distance d = abs(r_i - r_j) in ranks, the weight is

    - ndcg1: G_i D(r_i), over all pairs of two items, those of equal labels and those in the wrong order included;
    - ndcg2: (D(d) - D(d + 1)) (G_i - G_j), over the pairs with y_i > y_j: large for neighbours, wherever they stand;
    - ndcg2++: mu times ndcg2 plus the weight of lambdarank, abs(D(r_i) - D(r_j)) (G_i - G_j).

    A pair counts when either of its items stands in the top k, so a positive at rank 31 still climbs when k = 10; only
    pairs entirely below k weigh nothing. In the weight of lambdarank D is 0 below k, as there. The logarithm is
    natural, as in the other losses here; the paper's, of base 2, differs by a constant factor.

    Among equal scores the lower label is taken to stand higher, as the metrics here have it: the loss does not depend
    on the order in which a list is stored.

    Parameters
    ----------
    scores : Tensor (B, L)
        Floating point; at least float32 is used inside.
    labels : Tensor (B, L)
        Any dtype, binary or graded; -1 is padding.
    weighting : {"ndcg2++", "ndcg2", "ndcg1"}
        As above.
    mu : float
        Weight of ndcg2 in ndcg2++, above 0; the others ignore it.
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
        A wrong shape, dtype, score, label, weighting, mu, sigma, k or reduction.

    References
    ----------
    Wang et al., The LambdaLoss Framework for Ranking Metric Optimization, CIKM 2018, doi:10.1145/3269206.3271784.

    Examples
    --------
    51 equal scores, one relevant item.

    >>> import torch
    >>> lambdaloss(torch.zeros(1, 51), torch.eye(51)[:1])
    tensor(8.5758)
    """
    if weighting not in _WEIGHTINGS:
        raise ValueError(f"weighting is {weighting!r}: pass 'ndcg2++', 'ndcg2' or 'ndcg1'")
    check_positive("mu", mu)
    check_positive("sigma", sigma)
    check_count("k", k)
    scores, labels, valid = prepare(scores, labels, reduction)
    pairs = _all_pairs(scores, valid) if weighting == "ndcg1" else preferred_pairs(scores, labels, valid)
    length = scores.shape[1]

    gain = gains(labels)
    discount, truncated = discounts(length, None, like=scores), discounts(length, k, like=scores)
    informative = above_lowest(labels, valid).any(dim=1)
    gain = gain / torch.where(informative, ideal_dcg(gain, truncated), 1.0)[:, None]
    rank = ranks(scores, labels, valid)
    rank_of_preferred = rank.gather(1, pairs.preferred)

    if weighting == "ndcg1":
        weight = (gain.gather(1, pairs.preferred) * discount[rank_of_preferred])[:, :, None]
    else:
        # By distance in ranks; the 0 at distance 0 is an item against itself.
        steps = torch.cat([discount.new_zeros(1), discount[:-1] - discount[1:]])
        weight = steps[(rank_of_preferred[:, :, None] - rank[:, None, :]).abs()]
    if k is not None:
        top = min(k, length)
        weight = weight * ((rank_of_preferred < top)[:, :, None] | (rank < top)[:, None, :])
    if weighting == "ndcg2++":
        weight = mu * weight + distance(truncated[rank], pairs.preferred)
    if weighting != "ndcg1":
        weight = weight * distance(gain, pairs.preferred)

    per_pair = torch.where(pairs.mask, -weight * logsigmoid(sigma * pairs.difference), 0.0)
    return reduce(per_pair.sum(dim=(1, 2)), informative, reduction)


def _all_pairs(scores: Tensor, valid: Tensor) -> Pairs:
    """Every item with every other, whatever their labels: P = L."""
    places = torch.arange(scores.shape[1], device=scores.device)
    mask = valid[:, :, None] & valid[:, None, :] & (places[:, None] != places)
    return Pairs(places.expand(scores.shape), scores[:, :, None] - scores[:, None, :], mask)
