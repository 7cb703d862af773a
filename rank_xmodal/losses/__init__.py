"""Ranking losses: scores (B, L) and labels (B, L) to a scalar.

    >>> import torch
    >>> from rank_xmodal import losses
    >>> scores = torch.zeros(1, 51)
    >>> labels = torch.eye(51)[:1]
    >>> losses.listnet(scores, labels)
    tensor(3.9318)
    >>> losses.get("ranknet", sigma=2.0)(scores, labels)
    tensor(0.6931)

A new loss is a file of its own, an import and an entry in the table below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from rank_xmodal.errors import UserError
from rank_xmodal.losses.lambdarank import lambdarank
from rank_xmodal.losses.listnet import listnet
from rank_xmodal.losses.neuralndcg import neuralndcg
from rank_xmodal.losses.ranknet import ranknet
from rank_xmodal.losses.registry import Loss, Parameter, nearest

__all__ = ["REGISTRY", "Loss", "Parameter", "get", "lambdarank", "listnet", "names", "neuralndcg", "ranknet"]

_TRUNCATION = "ranks of NDCG that count; None for the whole list"

REGISTRY: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss(
            "lambdarank",
            lambdarank,
            labels="graded",
            paper="Burges, Ragno, Le: Learning to Rank with Nonsmooth Cost Functions, NeurIPS 2006; "
            "as a loss: Wang et al., CIKM 2018, doi:10.1145/3269206.3271784",
            descriptions={"sigma": "steepness of the pair's logistic loss", "k": _TRUNCATION},
        ),
        Loss(
            "neuralndcg",
            neuralndcg,
            labels="graded",
            paper="Pobrotyn, Białobrzeski: NeuralNDCG, 2021, arXiv:2102.07831",
            descriptions={
                "temperature": "of the relaxed sort: lower is closer to NDCG and has a smaller gradient",
                "k": _TRUNCATION,
                "iterations": "Sinkhorn steps",
            },
        ),
        Loss(
            "listnet",
            listnet,
            labels="graded",
            paper="Cao et al.: Learning to Rank: From Pairwise Approach to Listwise Approach, ICML 2007, "
            "doi:10.1145/1273496.1273513",
            descriptions={"temperature": "of the softmax over the scores"},
        ),
        Loss(
            "ranknet",
            ranknet,
            labels="graded",
            paper="Burges et al.: Learning to Rank using Gradient Descent, ICML 2005, doi:10.1145/1102351.1102363",
            descriptions={"sigma": "steepness of the pair's logistic loss"},
        ),
    )
}


def names() -> tuple[str, ...]:
    """Names of all losses."""
    return tuple(REGISTRY)


def get(name: str, **params: Any) -> Callable[..., Tensor]:
    """Look up a loss and fix its parameters. Returns a callable (scores, labels, reduction="mean").

    Raises:
        UserError: an unknown name, an unknown parameter or a bad value; names the nearest known one.
    """
    if name not in REGISTRY:
        raise UserError(f"unknown loss {name!r}.{nearest(name, list(REGISTRY))} Losses: {', '.join(REGISTRY)}")
    return REGISTRY[name].configured(**params)
