"""Decisions by a threshold: which pairs of a query and a candidate are called a match, and how many of them are one.

Unlike the ranking metrics these look at all pairs of all queries at once, so scores must mean the same from query to
query. Choose a threshold on validation (`best_f1`) and apply it to test (`at_threshold`): the best threshold of the
very pairs that it is judged on flatters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from rank_xmodal.metrics._ranking import count_relevant, ranked_labels


@dataclass(frozen=True)
class PairDecisions:
    """What a threshold decides.

    Attributes
    ----------
    threshold : float
        A pair with at least this score is called a match.
    precision : float
        Share of real matches among those called one; 0 where none is.
    recall : float
        Share of the real matches that are called one; 0 where there are none.
    f1 : float
        Harmonic mean of the two.
    confusion : ((int, int), (int, int))
        Pairs, as scikit-learn lays them out: ((true negatives, false positives), (false negatives, true positives)).
    """

    threshold: float
    precision: float
    recall: float
    f1: float
    confusion: tuple[tuple[int, int], tuple[int, int]]


def at_threshold(scores: Tensor, labels: Tensor, threshold: float, n_relevant: Tensor | None = None) -> PairDecisions:
    """Judge the pairs that score at least `threshold`.

    Parameters
    ----------
    scores : Tensor (Q, L)
    labels : Tensor (Q, L)
        Above 0 is a match, -1 is padding.
    threshold : float
        Any number but NaN.
    n_relevant : Tensor (Q,), optional
        Matches of each query in the whole gallery, where the lists are only its top. Those outside the list are false
        negatives: nothing calls them a match. By default those in the list.

    Returns
    -------
    PairDecisions

    Raises
    ------
    ValueError
        A wrong type, shape or label, a NaN, or n_relevant below what a list holds.

    Examples
    --------
    >>> import torch
    >>> scores, labels = torch.tensor([[3.0, 2.0, 1.0]] * 2), torch.tensor([[1, 0, 0], [0, 1, 0]])
    >>> at_threshold(scores, labels, 3.0)
    PairDecisions(threshold=3.0, precision=0.5, recall=0.5, f1=0.5, confusion=((3, 1), (1, 1)))
    """
    if not isinstance(threshold, Real) or math.isnan(threshold):
        found = "NaN" if isinstance(threshold, Real) else repr(threshold)
        raise ValueError(f"threshold is {found}: pass a number")
    score, match, outside = _pairs(scores, labels, n_relevant)
    called = score >= threshold
    found = int((called & match).sum())
    wrong = int((called & ~match).sum())
    missed = int(match.sum()) - found + outside
    return _decisions(threshold, found, wrong, missed, len(score) + outside - found - wrong - missed)


def best_f1(scores: Tensor, labels: Tensor, n_relevant: Tensor | None = None) -> PairDecisions:
    """Judge the pairs at the threshold, one of the scores, whose F1 is the highest; of several, the highest one.

    Parameters
    ----------
    scores : Tensor (Q, L)
    labels : Tensor (Q, L)
        Above 0 is a match, -1 is padding.
    n_relevant : Tensor (Q,), optional
        As in `at_threshold`.

    Returns
    -------
    PairDecisions

    Raises
    ------
    ValueError
        As `at_threshold`, or lists that hold padding alone.

    Examples
    --------
    >>> import torch
    >>> best_f1(torch.tensor([[4.0, 3.0, 2.0, 1.0]]), torch.tensor([[1, 1, 0, 0]]))
    PairDecisions(threshold=3.0, precision=1.0, recall=1.0, f1=1.0, confusion=((2, 0), (0, 2)))
    """
    score, match, outside = _pairs(scores, labels, n_relevant)
    if not len(score):
        raise ValueError("labels are all -1: there is no pair to decide on; pass at least one")
    score, order = score.sort(descending=True)
    found = match[order].double().cumsum(dim=0)
    called = torch.arange(1, len(score) + 1, dtype=torch.float64, device=score.device)
    # Equal scores fall on the same side of any threshold: only the last of them stands for a decision.
    last = torch.ones(len(score), dtype=torch.bool, device=score.device)
    last[:-1] = score[1:] != score[:-1]
    f1 = 2 * found / (called + match.sum() + outside)
    best = int(f1.masked_fill(~last, -1.0).argmax())
    return at_threshold(scores, labels, float(score[best]), n_relevant)


def _pairs(scores: Tensor, labels: Tensor, n_relevant: Tensor | None) -> tuple[Tensor, Tensor, int]:
    """Return score and match of each pair, (n,) both, and the number of matches outside the lists."""
    ranked = ranked_labels(scores, labels)  # for its checks, too
    outside = int((count_relevant(ranked, n_relevant) - (ranked > 0).sum(dim=1)).sum())
    valid = labels >= 0
    return scores.detach()[valid].double(), labels[valid] > 0, outside


def _decisions(threshold: float, found: int, wrong: int, missed: int, rejected: int) -> PairDecisions:
    return PairDecisions(
        threshold=float(threshold),
        precision=found / max(1, found + wrong),
        recall=found / max(1, found + missed),
        f1=2 * found / max(1, 2 * found + wrong + missed),
        confusion=((rejected, wrong), (missed, found)),
    )
