"""Losses of a batch of relaxed hash codes in (-1, 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rank_xmodal.scorers.projections.objectives import pairwise_likelihood


def signs(codes: Tensor) -> Tensor:
    """Return +1 or -1 for every entry, +1 for 0, in the same shape and dtype."""
    return torch.where(codes >= 0, 1.0, -1.0).to(codes.dtype)


def quantisation_loss(image: Tensor, text: Tensor) -> Tensor:
    """Return how far codes are from the bits that a pair shares, a scalar, ``mean (B - F)^2 + mean (B - G)^2``.

    ``B = sign(F + G)``, no part of the gradient.

    Parameters
    ----------
    image, text : Tensor (B, k)
        F and G.

    References
    ----------
    Jiang and Li: Deep Cross-Modal Hashing, CVPR 2017, arXiv:1602.02255.
    """
    bits = signs(image + text).detach()
    return F.mse_loss(image, bits) + F.mse_loss(text, bits)


def balance_loss(image: Tensor, text: Tensor) -> Tensor:
    """Return how far bits are from being +1 as often as -1, a scalar, the mean square of the means over the batch."""
    return image.mean(0).square().mean() + text.mean(0).square().mean()


def dcmh_loss(image: Tensor, text: Tensor, match: Tensor) -> Tensor:
    """Return the negative log-likelihood of which pairs are alike, a scalar, with logits ``F G' / 2``.

    Parameters
    ----------
    image, text : Tensor (B, k)
        F and G.
    match : Tensor (B, B), bool

    References
    ----------
    Jiang and Li: Deep Cross-Modal Hashing, CVPR 2017, arXiv:1602.02255; the mean over pairs where it has the sum.
    """
    return pairwise_likelihood(image @ text.T / 2, match)


def joint_similarity(images: Tensor, texts: Tensor, share: float = 0.5, second: float = 0.4) -> Tensor:
    """Return what DJSRH takes for the similarity of pairs, (B, B), 1 at most.

    ``S = (1 - second) s + second s s' / B`` with ``s = share cos(images) + (1 - share) cos(texts)``.

    Parameters
    ----------
    images, texts : Tensor (B, d) and (B, e)
        Features.
    share, second : float
        The paper has 0.4 for `second`, and a share for each data set.

    References
    ----------
    As of `djsrh_loss`.
    """
    x, z = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
    first = share * (x @ x.T) + (1 - share) * (z @ z.T)
    return (1 - second) * first + second * (first @ first.T) / len(first)


def djsrh_loss(image: Tensor, text: Tensor, wanted: Tensor, scale: float = 1.5, within: float = 0.1) -> Tensor:
    """Return how far the codes' cosines are from wanted similarities, a scalar.

    ``mean (c S - cos(F, G))^2 + within (mean (c S - cos(F, F))^2 + mean (c S - cos(G, G))^2)``, c S at most 1,
    which no cosine exceeds.

    Parameters
    ----------
    image, text : Tensor (B, k)
        F and G.
    wanted : Tensor (B, B)
        S, see `joint_similarity`.
    scale, within : float
        c and the weight of either side alone, with the paper's values.

    References
    ----------
    Su et al.: Deep Joint-Semantics Reconstructing Hashing for Large-Scale Unsupervised Cross-Modal Retrieval,
    ICCV 2019, doi:10.1109/ICCV.2019.00312.
    """
    x, z, aim = F.normalize(image, dim=-1), F.normalize(text, dim=-1), (scale * wanted).clamp(max=1)
    alone = F.mse_loss(x @ x.T, aim) + F.mse_loss(z @ z.T, aim)
    return F.mse_loss(x @ z.T, aim) + within * alone


def teacher_loss(code: Tensor, taught: Tensor, same: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """Return SSAH's loss of codes against those of a label network, a scalar.

    The pairwise likelihood with logits ``F H' / 2`` plus the cross-entropy of each class.

    Parameters
    ----------
    code, taught : Tensor (B, k)
        F and H.
    same : Tensor (B, B), bool
        Item i of F and item j of H share a class.
    scores, labels : Tensor (B, C)
        Logits of the classes of F, and 1 for each of its classes.

    References
    ----------
    Li et al.: Self-Supervised Adversarial Hashing Networks for Cross-Modal Retrieval, CVPR 2018, arXiv:1804.01223.
    """
    return pairwise_likelihood(code @ taught.T / 2, same) + F.binary_cross_entropy_with_logits(scores, labels)
