"""The weights of a combination: base + w . z, any ranking loss, a penalty chosen in the inner folds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy  # .optimize when it is first used: a quarter of a second
import torch
from torch import Tensor

from rank_xmodal.evaluation.significance import standard_error
from rank_xmodal.metrics.mrr import mrr

Loss = Callable[[Tensor, Tensor], Tensor]
PENALTIES = (3.0, 10.0, 30.0, 100.0, float("inf"))  # infinity: the base alone
FEW = 200  # groups below which a gain must be two standard errors: whatever is fitted on so few is noise above all
_ITERATIONS = 30


@dataclass(frozen=True)
class Lists:
    """Training lists as the solver sees them.

    Attributes
    ----------
    z : Tensor (Q, L, F)
        Features, centred in the list and of common size; 0 at padding.
    base : Tensor (Q, L)
    labels : Tensor (Q, L)
        Above 0 is relevant, -1 is padding.
    fold, group : ndarray (Q,)
        The inner fold of each list, and which belong together.
    """

    z: Tensor
    base: Tensor
    labels: Tensor
    fold: np.ndarray
    group: np.ndarray

    def of(self, chosen: np.ndarray) -> Lists:
        """Return some of the lists, bool (Q,) or rows."""
        at = torch.from_numpy(np.flatnonzero(chosen) if chosen.dtype == bool else chosen)
        return Lists(self.z[at], self.base[at], self.labels[at], self.fold[at.numpy()], self.group[at.numpy()])


def any_on_top(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Join the relevant items of each list into one whose score is the log of the sum of their exponentials.

    What counts is that any of them comes first: with one relevant item nothing changes.
    """
    relevant = labels > 0
    first = relevant.int().argmax(1, keepdim=True)
    joined = scores.masked_fill(~relevant, -torch.inf).logsumexp(1, keepdim=True)
    at_first = torch.zeros_like(relevant).scatter_(1, first, True)
    one = torch.where(relevant, -1, labels.to(torch.int64)).masked_fill(at_first & relevant, 1)
    return torch.where(at_first & relevant, joined, scores), one


def temperature(lists: Lists, loss: Loss) -> float:
    """Return the factor at which the base alone has the least loss."""

    def value(log: float) -> float:
        return float(loss(*any_on_top(lists.base * float(np.exp(log)), lists.labels)))

    return float(np.exp(scipy.optimize.minimize_scalar(value, bounds=(-3.0, 8.0), method="bounded").x))


def solve(lists: Lists, loss: Loss, weight: float, penalty: float, start: np.ndarray) -> np.ndarray:
    """Return w, (F,): the least of ``weight * loss(base + w . z) + penalty / (2 Q) ||w - start||^2`` by L-BFGS."""
    if not np.isfinite(penalty):
        return start
    share = penalty / len(lists.z)
    flat = lists.z.reshape(-1, lists.z.shape[-1])

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        scores = (lists.base + (flat @ torch.from_numpy(w).to(flat.dtype)).view_as(lists.base)).requires_grad_()
        value = weight * loss(*any_on_top(scores, lists.labels))
        (slope,) = torch.autograd.grad(value, scores)
        gradient = (flat.T @ slope.reshape(-1)).double().numpy()
        moved = w - start
        return float(value.detach()) + share / 2 * float(moved @ moved), gradient + share * moved

    found = scipy.optimize.minimize(
        objective, start, jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS, "ftol": 1e-6}
    )
    return np.asarray(found.x)


def few(lists: Lists) -> bool:
    """Say whether the lists are of so few groups that little can be learnt from them."""
    return len(np.unique(lists.group)) < FEW


def clearly(gain: np.ndarray, group: np.ndarray, errors: float) -> bool:
    """Say whether a gain, (Q,), is on average above so many standard errors; of one group nobody knows it."""
    return bool(gain.mean() > errors * standard_error(gain, group))


def choose(
    lists: Lists,
    loss: Loss,
    weight: float,
    start_of: Callable[[int | None], np.ndarray],
    learnt_from: Callable[[Lists], Lists] = lambda lists: lists,
) -> tuple[float, np.ndarray]:
    """Choose the penalty in the inner folds, then solve on all lists; return both.

    Of the penalties whose held-out reciprocal rank is within half a standard error of the best (over groups, paired;
    two where there are few) the strongest is taken: a gain inside the noise is no gain.

    Parameters
    ----------
    lists, loss, weight
        See `solve`.
    start_of : fold, or None for none -> w
        Where the solution starts that does without that fold, and what it is penalised towards.
    learnt_from : lists -> lists
        Fewer and shorter ones for a loss that takes its time; it is always judged on the whole lists.
    """
    folds = np.unique(lists.fold)
    if len(folds) < 2:  # nothing to choose by
        return float("inf"), start_of(None)
    held = {penalty: np.zeros(len(lists.fold)) for penalty in PENALTIES}
    for fold in folds:
        rest, out = learnt_from(lists.of(lists.fold != fold)), lists.of(lists.fold == fold)
        start = start_of(fold)
        for penalty in PENALTIES:
            w = torch.from_numpy(solve(rest, loss, weight, penalty, start)).to(out.z.dtype)
            held[penalty][lists.fold == fold] = mrr(out.base + out.z @ w, out.labels).numpy()
    best = max(PENALTIES, key=lambda penalty: held[penalty].mean())
    share = 2.0 if few(lists) else 0.5
    chosen = max(p for p in PENALTIES if not clearly(held[best] - held[p], lists.group, share))
    return chosen, solve(learnt_from(lists), loss, weight, chosen, start_of(None))
