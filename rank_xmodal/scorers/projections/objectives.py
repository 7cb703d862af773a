"""Losses of a batch of mapped pairs: contrast, likelihood of pairs, reconstruction, distances and class labels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(image: Tensor, text: Tensor, match: Tensor, temperature: float) -> Tensor:
    """Return the contrastive loss of a batch, a scalar, the mean of both directions.

    ``-1/B sum_i 1/|P(i)| sum_{p in P(i)} log softmax_j(cos(x_i, z_j) / t)_p``, P(i) all that matches i.

    Parameters
    ----------
    image, text : Tensor (B, k)
    match : Tensor (B, B), bool
        Every row and column has a match.
    temperature : float
        t

    References
    ----------
    With one match a row CLIP's: Radford et al.: Learning Transferable Visual Models From Natural Language Supervision,
    ICML 2021, arXiv:2103.00020. Several: L_out of Khosla et al.: Supervised Contrastive Learning, NeurIPS 2020,
    arXiv:2004.11362, here across the two sides.
    """
    logits = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T / temperature
    return (class_likelihood(logits, match.to(logits)) + class_likelihood(logits.T, match.T.to(logits))) / 2


def class_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of softmax(logits) to labels, of which an item's share a weight of 1, a scalar.

    Parameters
    ----------
    logits : Tensor (B, C), float
    labels : Tensor (B, C), float
        0 or 1, at least one 1 in a row.
    """
    share = labels / labels.sum(1, keepdim=True)
    return -(share * logits.log_softmax(1)).sum(1).mean()


def pairwise_likelihood(logits: Tensor, same: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of pairs that are alike with probability sigmoid(logit), a scalar.

    ``mean_ij log(1 + exp(L_ij)) - S_ij L_ij``, computed without an exponential that overflows.

    Parameters
    ----------
    logits : Tensor (B, B'), float
    same : Tensor (B, B'), bool
        S

    References
    ----------
    Of hash codes: Zhang et al.: Supervised Hashing with Latent Factor Models, SIGIR 2014.
    """
    return F.binary_cross_entropy_with_logits(logits, same.to(logits))


def distance_loss(image: Tensor, text: Tensor, images: Tensor, texts: Tensor) -> Tensor:
    """Return how far distances in the common space are from those in the spaces that the items come from, a scalar.

    ``mean_ij (|x_i - x_j| - a_ij)^2 + (|z_i - z_j| - b_ij)^2 + (|x_i - z_j| - (a_ij + b_ij) / 2)^2`` with a, b the
    distances of the features, each over the mean of its side.

    Parameters
    ----------
    image, text : Tensor (B, k)
        Mapped.
    images, texts : Tensor (B, d) and (B, e)
        Features.

    References
    ----------
    The three kinds of distances are those of Zhan et al.: Comprehensive Distance-Preserving Autoencoders for
    Cross-Modal Retrieval, ACM MM 2018, doi:10.1145/3240508.3240607; the form of the loss is ours.
    """
    a, b = (_distances(table, table) for table in (images, texts))
    a, b = (table / table.mean().clamp(min=1e-12) for table in (a, b))
    pairs = ((image, image, a), (text, text, b), (image, text, (a + b) / 2))
    return torch.stack([F.mse_loss(_distances(one, other), wanted) for one, other, wanted in pairs]).sum()


def _distances(x: Tensor, z: Tensor) -> Tensor:
    """Return (B, B') Euclidean distances; the square root's gradient at 0, where there is none, is 0."""
    return torch.linalg.vector_norm(x[:, None] - z[None], dim=-1)


def structure_loss(image: Tensor, text: Tensor, match: Tensor, margin: float) -> Tensor:
    """Return ACMR's structure preservation of a batch, a scalar: like items near, others at least `margin` away.

    ``l(X, Z) + l(Z, X)``, ``l(X, Z) = mean over alike i, j of |x_i - z_j| + mean over others of [m - |x_i - z_j|]_+``,
    x and z scaled to length 1; both directions of a batch are the same sum. The paper samples triplets where this
    takes all.

    Parameters
    ----------
    image, text : Tensor (B, k)
    match : Tensor (B, B), bool
        Every row has a match.
    margin : float
        m

    References
    ----------
    Wang et al.: Adversarial Cross-Modal Retrieval, ACM MM 2017, doi:10.1145/3123266.3123326, eq. 4 and 5.
    """
    distance = _distances(F.normalize(image, dim=-1), F.normalize(text, dim=-1))
    near = distance[match].mean()
    others = (margin - distance[~match]).relu()
    return 2 * (near + others.sum() / max(others.numel(), 1))


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


def reverse(x: Tensor, strength: float) -> Tensor:
    """Return x, whose gradient is -`strength` times what comes back.

    References
    ----------
    Ganin and Lempitsky: Unsupervised Domain Adaptation by Backpropagation, ICML 2015, arXiv:1409.7495.
    """
    reversed_: Tensor = _Reverse.apply(x, strength)  # type: ignore[no-untyped-call]
    return reversed_


def modality_loss(image: Tensor, text: Tensor) -> Tensor:
    """Return the adversary's loss, a scalar: the cross-entropy of its logits of "is an image", (B,) of each side."""
    logits = torch.cat([image, text])
    truth = torch.cat([torch.ones_like(image), torch.zeros_like(text)])
    return F.binary_cross_entropy_with_logits(logits, truth)


def dscmr_loss(
    image: Tensor, text: Tensor, image_scores: Tensor, text_scores: Tensor, image_labels: Tensor, text_labels: Tensor,
    *, pairwise: float = 1e-3, invariance: float = 0.1,
) -> Tensor:  # fmt: skip
    """Return DSCMR's loss of a batch, a scalar, ``J1 + pairwise J2 + invariance J3``.

    ``J1 = mean_i |p_i - y_i|`` of either side; ``J2`` the pairwise likelihood with logits ``cos / 2`` between the sides
    and within each; ``J3 = mean_i |x_i - z_i|``. J1 and J3 are means of norms, as in the authors' code, where the paper
    has a norm of the whole batch, which its size would change.

    Parameters
    ----------
    image, text : Tensor (B, k)
    image_scores, text_scores : Tensor (B, C)
        p, what a linear classifier that both sides share makes of them.
    image_labels, text_labels : Tensor (B, C), float
        y
    pairwise, invariance : float
        The paper's lambda and eta.

    References
    ----------
    Zhen et al.: Deep Supervised Cross-Modal Retrieval, CVPR 2019, doi:10.1109/CVPR.2019.01064.
    """
    labelled = ((image_scores, image_labels), (text_scores, text_labels))
    label = sum(torch.linalg.vector_norm(scores - labels, dim=1).mean() for scores, labels in labelled)
    x, z = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
    sides = ((x, z, image_labels, text_labels), (x, x, image_labels, image_labels), (z, z, text_labels, text_labels))
    alike = sum(pairwise_likelihood(a @ b.T / 2, of_a @ of_b.T > 0) for a, b, of_a, of_b in sides)
    return label + pairwise * alike + invariance * torch.linalg.vector_norm(image - text, dim=1).mean()


def prototype_loss(x: Tensor, centres: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return the prototype contrastive loss of one side of a batch, a scalar.

    ``-mean_i sum_c y_ic / |y_i| log softmax_c(cos(x_i, w_c) / t)``

    Parameters
    ----------
    x : Tensor (B, k)
    centres : Tensor (C, k)
        w, one a class.
    labels : Tensor (B, C), float
        y
    temperature : float
        t

    References
    ----------
    Zeng and Mao: A Comprehensive Empirical Study of Vision-Language Pre-trained Model for Supervised Cross-Modal
    Retrieval, arXiv:2201.02772, 2022. Proxies of classes: Movshovitz-Attias et al.: No Fuss Distance Metric Learning
    using Proxies, ICCV 2017, arXiv:1703.07464.
    """
    return class_likelihood(F.normalize(x, dim=-1) @ F.normalize(centres, dim=-1).T / temperature, labels)
