"""Multinomial logistic regression as a map: from features to class probabilities."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from rank_xmodal.scorers.projections.maps import Centred, Shifted
from rank_xmodal.scorers.projections.views import Standard

_ALONE = 2**26  # products of a step below which threads wait for each other longer than they work
_NEVER = -1e4  # logit of a class that no item of this side has


def logistic(table: Tensor, labels: Tensor, penalty: float) -> nn.Sequential:
    """Return ``softmax((x - mean) W + b)``, (..., d) -> (..., C), fitted by scikit-learn.

    Minimises the mean over items of ``-sum_c s_c log P(c | x)`` plus ``penalty / 2 ||W||^2``, W on standardised
    features (`Standard`); s is 1 for the class of an item, 1 / k for each of its k classes.

    Parameters
    ----------
    table : Tensor (n, d)
    labels : Tensor (n, C), multi-hot
    penalty : float
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    side = Standard.of(table)
    item, own = (found.cpu().numpy() for found in labels.nonzero(as_tuple=True))
    weight = 1 / labels.sum(1).cpu().numpy()[item]
    x = side.table.cpu().numpy()[item]
    model = LogisticRegression(C=1 / (penalty * len(table)), tol=1e-6, max_iter=1_000)
    threads = 1 if x.size * labels.shape[1] < _ALONE else None
    with warnings.catch_warnings(), threadpool_limits(threads):
        warnings.simplefilter("ignore", ConvergenceWarning)  # after 1,000 steps it is near enough
        model.fit(x, own, sample_weight=weight)
    found = np.zeros((table.shape[1], labels.shape[1]))
    bias = np.full(labels.shape[1], _NEVER)
    if len(model.classes_) == 2:  # scikit-learn keeps one logit, that of the second
        found[:, model.classes_], bias[model.classes_] = model.coef_.T * [-0.5, 0.5], model.intercept_ * [-0.5, 0.5]
    else:
        found[:, model.classes_], bias[model.classes_] = model.coef_.T, model.intercept_
    linear = side.map(torch.from_numpy(found).to(side.table))
    return nn.Sequential(linear, Shifted(-torch.from_numpy(bias).to(side.table)), nn.Softmax(dim=-1))


def blank_logistic(dim: int, classes: int) -> nn.Sequential:
    """Return such a map whose tensors are still to be loaded."""
    return nn.Sequential(Centred.blank(dim, classes), Shifted(torch.zeros(classes)), nn.Softmax(dim=-1))
