"""Retrieval metrics: scores (Q, L) and labels (Q, L) to one value per query, (Q,).

    >>> import torch
    >>> from rank_xmodal import metrics
    >>> scores = torch.tensor([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1]])
    >>> labels = torch.tensor([[1, 0, 0], [0, 0, 1]])
    >>> metrics.hit_rate(scores, labels, k=1).mean()
    tensor(0.5000, dtype=torch.float64)
    >>> metrics.get("MRR")(scores, labels)
    tensor([1.0000, 0.3333], dtype=torch.float64)

Names are those of the tables: "R@5" is the hit rate, as image-text retrieval has it; "recall@5" is the share of
relevant items found. `at_threshold` and `best_f1` judge pairs by a threshold instead of rankings.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from rank_xmodal.errors import UserError, did_you_mean
from rank_xmodal.metrics.first_relevant_rank import first_relevant_rank
from rank_xmodal.metrics.hit_rate import hit_rate
from rank_xmodal.metrics.map_at_k import map_at_k
from rank_xmodal.metrics.mrr import mrr
from rank_xmodal.metrics.ndcg import ndcg
from rank_xmodal.metrics.pairs import PairDecisions, at_threshold, best_f1
from rank_xmodal.metrics.recall import recall

__all__ = [
    "DEFAULT",
    "Metric",
    "PairDecisions",
    "at_threshold",
    "best_f1",
    "compute",
    "first_relevant_rank",
    "get",
    "hit_rate",
    "map_at_k",
    "mrr",
    "ndcg",
    "recall",
]

DEFAULT = ("R@1", "R@5", "R@10", "MRR", "NDCG@10")
"""The columns of every table."""

_AT_K: dict[str, Callable[..., Tensor]] = {
    "r": hit_rate,
    "hit_rate": hit_rate,
    "recall": recall,
    "ndcg": ndcg,
    "map": map_at_k,
}
_WHOLE: dict[str, Callable[..., Tensor]] = {"mrr": mrr}
_COUNTS_RELEVANT = (recall, ndcg, map_at_k)
_FORMS = ("R@k", "hit_rate@k", "recall@k", "MRR", "NDCG@k", "MAP@k")


class Metric(Protocol):
    """What `get` returns: a metric with its k fixed."""

    def __call__(self, scores: Tensor, labels: Tensor, n_relevant: Tensor | None = None) -> Tensor:
        """Return one value per query, (Q,); metrics that do not use `n_relevant` ignore it."""
        ...


def get(name: str) -> Metric:
    """Look up a metric by its name in a table.

    Parameters
    ----------
    name : str
        In any case: "R@1", "hit_rate@5", "recall@5", "MRR", "NDCG@10", "MAP@5".

    Returns
    -------
    Metric

    Raises
    ------
    UserError
        An unknown name; names the nearest known one.
    """
    match = re.fullmatch(r"([a-z_]+)(?:@([1-9][0-9]*))?", str(name).strip().lower())
    kind, k = match.groups() if match else (None, None)
    if kind in _WHOLE and k is None:
        return functools.partial(_call, _WHOLE[kind], {})
    if kind in _AT_K and k is not None:
        return functools.partial(_call, _AT_K[kind], {"k": int(k)})
    raise UserError(f"unknown metric {name!r}.{_nearest(str(name))} Metrics: {', '.join(_FORMS)}, with k = 1, 2, ...")


def compute(name: str, scores: Tensor, labels: Tensor, n_relevant: Tensor | None = None) -> Tensor:
    """Compute a metric by name.

    Parameters
    ----------
    name : str
        As `get` takes it.
    scores : Tensor (Q, L)
    labels : Tensor (Q, L)
        Above 0 is relevant, -1 is padding.
    n_relevant : Tensor (Q,), optional
        As the metric takes it; ignored by those that don't use it.

    Returns
    -------
    Tensor (Q,), float64

    Raises
    ------
    UserError
        As `get`.
    ValueError
        As the metric.

    Examples
    --------
    >>> import torch
    >>> compute("R@1", torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([[1, 0], [0, 1]]))
    tensor([1., 0.], dtype=torch.float64)
    """
    return get(name)(scores, labels, n_relevant)


def _call(
    function: Callable[..., Tensor],
    settings: dict[str, int],
    scores: Tensor,
    labels: Tensor,
    n_relevant: Tensor | None = None,
) -> Tensor:
    if function in _COUNTS_RELEVANT:
        return function(scores, labels, **settings, n_relevant=n_relevant)
    return function(scores, labels, **settings)


def _nearest(name: str) -> str:
    """`did_you_mean` by the letters alone, with the k that was asked for put back in."""
    k = re.search(r"[1-9][0-9]*", name)
    spelt = {form.removesuffix("@k").lower(): form.replace("@k", f"@{k.group() if k else 10}") for form in _FORMS}
    letters = re.split(r"[^a-z_]", name.strip().lower())[0]
    return re.sub(r"'(.+)'", lambda found: repr(spelt[found[1]]), did_you_mean(letters, spelt))
