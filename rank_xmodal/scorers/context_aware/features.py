"""What a ranker sees of a pair beside its embeddings: the first-stage score and hubness, alone and within the list."""

from __future__ import annotations

import torch

from rank_xmodal.retrieval.query_bank import hubness, soft_maximum


def _z(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Standardise within the list; 0 at padding and in lists without spread."""
    count = mask.sum(-1, keepdim=True).clamp(min=1)
    kept = torch.where(mask, values, 0.0)
    centred = torch.where(mask, values - kept.sum(-1, keepdim=True) / count, 0.0)
    std = (centred.square().sum(-1, keepdim=True) / count).sqrt()
    return centred / (std + 1e-6)


def _margin(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the distance to the best of the others: positive only for the list's top."""
    if values.shape[-1] < 2:
        return torch.zeros_like(values)
    top = values.masked_fill(~mask, -torch.inf).topk(2, dim=-1).values
    best, second = top[..., :1], top[..., 1:]
    rival = torch.where(values >= best, second, best)
    return torch.where(mask & torch.isfinite(rival), values - rival, 0.0)


def _reciprocal_rank(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return 1 / rank within the list; of tied items all get the rank of the first."""
    filled = values.masked_fill(~mask, -torch.inf)
    descending = filled.sort(dim=-1).values
    above = values.shape[-1] - torch.searchsorted(descending, filled.contiguous(), right=True)
    return torch.where(mask, 1.0 / (above + 1.0), 0.0)


def centred(features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return features less their mean in the list, (B, L, F) and (B, L) -> (B, L, F); 0 at padding."""
    kept = mask[..., None]
    centre = torch.where(kept, features, 0.0).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1)
    return torch.where(kept, features - centre, 0.0)


def centred_and_deviation(features: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features as `centred` does, and each one's standard deviation in a list, its mean over the lists, (F,)."""
    z = centred(features, mask)
    return z, (z.square().sum(1) / mask.sum(1, keepdim=True).clamp(min=1)).sqrt().mean(0).clamp(min=1e-8)


def penalties(neighbour_cosine: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return what CSLS and the inverted softmax take off a cosine, each centred in its list, (B, L, k) -> (B, L, 2).

    In the unit of the cosine: hubness, and the temperature times the logarithm of the softmax's denominator.
    """
    both = torch.stack([hubness(neighbour_cosine), soft_maximum(neighbour_cosine)], dim=-1)
    return centred(both, mask)


def cosine_features(cosine: torch.Tensor, mask: torch.Tensor, spread: torch.Tensor | float) -> torch.Tensor:
    """Return the block `cosine`, (B, L) -> (B, L, 3): z-score, margin to the top, 1 / rank.

    Parameters
    ----------
    cosine : Tensor (B, L)
    mask : Tensor (B, L), bool
        False at padding.
    spread : float
        Typical standard deviation of cosines within a list: makes margins numbers around 1.
    """
    return torch.stack([_z(cosine, mask), _margin(cosine, mask) / spread, _reciprocal_rank(cosine, mask)], dim=-1)


def hubness_features(
    cosine: torch.Tensor, neighbour_cosine: torch.Tensor, mask: torch.Tensor, spread: torch.Tensor | float
) -> torch.Tensor:
    """Return the block `hubness`, (B, L, 7).

    z-scores of hubness, of CSLS (2 cosine - hubness) and of the inverted softmax (cosine - T log sum exp of the
    neighbours' cosines / T); margins and reciprocal ranks of the latter two.

    Parameters
    ----------
    cosine : Tensor (B, L)
    neighbour_cosine : Tensor (B, L, k)
        Cosines to the nearest bank queries, -inf where there are fewer.
    mask : Tensor (B, L), bool
    spread : float
        As in `cosine_features`.
    """
    hub = hubness(neighbour_cosine)
    csls = 2 * cosine - hub
    isf = cosine - soft_maximum(neighbour_cosine)
    parts = [_z(hub, mask)]
    for values in (csls, isf):
        parts += [_z(values, mask), _margin(values, mask) / spread, _reciprocal_rank(values, mask)]
    return torch.stack(parts, dim=-1)
