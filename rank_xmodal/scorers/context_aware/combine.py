"""The linear part of the ranker: cross-fitted scores, combined list-wise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rank_xmodal import losses
from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.list_tensors import ListTensors
from rank_xmodal.lists.scoring import over_batches
from rank_xmodal.metrics.mrr import mrr
from rank_xmodal.scorers.context_aware.evidence import CORRECTED, Evidence
from rank_xmodal.scorers.context_aware.features import centred_and_deviation
from rank_xmodal.scorers.context_aware.solve import (
    Lists,
    Loss,
    choose,
    clearly,
    few,
    solve,
    temperature,
)

# Where the weights start: CSLS, the convex maps and VSE++ with CSLS on top, each over its mean deviation in a list; or
# CSLS alone.
_BASE = {"cosine, CSLS": 1.0, "convex, strong, CSLS": 0.5, "convex, weak, CSLS": 0.5, "vsepp, CSLS": 1.0}
_SAFE = {"cosine, CSLS": 1.0}
_CLEARLY = 2.0  # standard errors
# What brings a loss to the size of ListNet's, so that one penalty means about the same for all.
_WEIGHT = {"lambdarank": 3.0, "ranknet": 50.0, "neuralndcg": 100.0}
_MOST, _SHORT = 2_000, 20  # lists and places that the slow losses are solved on
_BLOCK = 16_384  # candidates and pairs held at a time while lists get their features
_SLOW = ("neuralndcg", "approxndcg", "smoothap", "lambdaloss")


@dataclass(frozen=True)
class Combination:
    """``score = weight . (features less their mean in the list)``.

    Attributes
    ----------
    weight : Tensor (F,)
    unit : Tensor (F,)
        One over each feature's mean deviation in a list; 0 for those that are left out.
    penalty : float
        What the inner folds chose; infinity is the start: the base, or with other losses ListNet's weights.
    """

    weight: Tensor
    unit: Tensor
    penalty: float


def held_out_features(evidence: Evidence, lists: ListTensors) -> Tensor:
    """Return the features of lists, (Q, L, F).

    Candidates come a block at a time, and each meets all that ask for it: what "neighbours" takes a candidate for is as
    wide as its embedding, and twice as large as stored, of which a large corpus has too many to keep.
    """
    length = lists.places.shape[1]
    places, order = lists.places.flatten().sort()
    queries = evidence.centred(lists.queries.float())
    rest, asked = [], lists.cosine.new_zeros(lists.places.numel())
    for start in range(0, len(lists.candidates), _BLOCK):
        found = evidence.of_candidates(lists.candidates[start : start + _BLOCK])
        answer, own = found.tensor_split([queries.shape[1]], dim=-1)
        rest.append(own.clone())  # alone: a view would keep the whole
        first, last = torch.searchsorted(places, places.new_tensor([start, start + _BLOCK])).tolist()
        for pairs, where in zip(order[first:last].split(_BLOCK), places[first:last].split(_BLOCK), strict=True):
            query = queries.index_select(0, lists.query_place.index_select(0, pairs // length))
            asked[pairs] = (answer.index_select(0, where - start) * query).sum(-1)
    # The score "neighbours" takes the place of the first stage's, which no feature reads.
    known = replace(lists, projected=torch.cat(rest), cosine=asked.view_as(lists.cosine))

    def features(batch: ListBatch) -> Tensor:
        assert batch.projected is not None
        return evidence.joined(batch.query, batch.candidates, batch.projected, batch.cosine)

    return over_batches(known, features)


def combine(
    features: Tensor, labels: Tensor, fold: np.ndarray, group: np.ndarray, loss: str, function: Loss,
    kept: dict[str, bool],
) -> Combination:  # fmt: skip
    """Solve for the weights on held-out lists.

    ``score = a base + w . z``: z the features, centred in the list, over their mean deviation; the base the mean of
    three scores with CSLS on top; a the temperature at which it has the least loss. The weights start at 0 and are
    penalised, so that without evidence it ranks as its base.

    Parameters
    ----------
    features : Tensor (Q, L, F)
    labels : Tensor (Q, L); -1 is padding
    fold, group : ndarray (Q,)
        See `Lists`.
    loss : str
    function : Loss
        Of that name.
    kept : dict of str to bool
        The features' names in their order, and which are looked at.
    """
    z, deviation = centred_and_deviation(features, labels >= 0)
    unit = torch.tensor([*kept.values()]) / deviation
    z *= unit
    held = Lists(z, z[..., 0], labels, fold, group)
    start = _start(held, kept)
    held = replace(held, base=z @ start)
    scale = temperature(held, losses.get("listnet"))
    penalty, w = solved(replace(held, base=held.base * scale), loss, function)
    return Combination((start * scale + torch.from_numpy(w).float()) * unit, unit, penalty)


def _start(held: Lists, kept: dict[str, bool]) -> Tensor:
    """Return the weights (F,) of the base.

    Of few lists it is CSLS, unless the mean of three is clearly better on held-out lists; of more it is this mean,
    unless CSLS is clearly better.
    """
    mixed, safe = (
        torch.tensor([base.get(name, 0.0) * looked for name, looked in kept.items()]) for base in (_BASE, _SAFE)
    )
    if not mixed.any():  # none of the base's own: all that is left, less its hubness
        return torch.tensor([float(name in CORRECTED and looked) for name, looked in kept.items()])
    if not safe.any():
        return mixed
    ranks = [mrr(held.z @ weights, held.labels).numpy() for weights in (mixed, safe)]
    gain = ranks[0] - ranks[1]
    if few(held):
        return mixed if clearly(gain, held.group, _CLEARLY) else safe
    return safe if clearly(-gain, held.group, _CLEARLY) else mixed


def solved(held: Lists, loss: str, function: Loss) -> tuple[float, np.ndarray]:
    """Return the penalty and the weights; other losses than ListNet start from its solution."""
    zero = np.zeros(held.z.shape[-1])
    if loss == "listnet":
        return choose(held, function, 1.0, lambda fold: zero)
    listnet = losses.get("listnet")
    penalty, w = choose(held, listnet, 1.0, lambda fold: zero)

    def start(fold: int | None) -> np.ndarray:
        return w if fold is None else solve(held.of(held.fold != fold), listnet, 1.0, penalty, zero)

    learnt_from = _shortened if loss in _SLOW else lambda lists: lists
    return choose(held, function, _WEIGHT.get(loss, 1.0), start, learnt_from)


def _shortened(lists: Lists) -> Lists:
    """Return fewer lists, each with its best by the base; those where nothing relevant is among them teach nothing.

    What is relevant is not put among them: then a low base would speak for an item.
    """
    rows = np.linspace(0, len(lists.fold) - 1, min(_MOST, len(lists.fold))).astype(np.int64)
    some = lists.of(rows)
    top = some.base.masked_fill(some.labels < 0, -torch.inf).topk(min(_SHORT, some.base.shape[1]), dim=1).indices
    short = Lists(
        some.z.gather(1, top[..., None].expand(-1, -1, some.z.shape[-1])),
        some.base.gather(1, top), some.labels.gather(1, top), some.fold, some.group,
    )  # fmt: skip
    taught = ((short.labels > 0).any(1) & (short.labels == 0).any(1)).numpy()
    return short.of(taught) if taught.any() else some
