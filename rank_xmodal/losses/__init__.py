"""Ranking losses: scores (B, L) and labels (B, L) to a scalar.

    >>> import torch
    >>> from rank_xmodal import losses
    >>> scores = torch.zeros(1, 51)
    >>> labels = torch.eye(51)[:1]
    >>> losses.listnet(scores, labels)
    tensor(3.9318)
    >>> losses.get("ranknet", sigma=2.0)(scores, labels)
    tensor(0.6931)

A new loss is a file of its own, an import and an entry in the table below; its formula in plain Python goes into
tests/rank_xmodal/losses/references.py, which has every loss tested.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from rank_xmodal.errors import UserError, did_you_mean
from rank_xmodal.losses.approxndcg import approxndcg
from rank_xmodal.losses.bce import bce
from rank_xmodal.losses.hinge import hinge
from rank_xmodal.losses.lambdaloss import lambdaloss
from rank_xmodal.losses.lambdarank import lambdarank
from rank_xmodal.losses.listmle import listmle
from rank_xmodal.losses.listnet import listnet
from rank_xmodal.losses.neuralndcg import neuralndcg
from rank_xmodal.losses.ranknet import ranknet
from rank_xmodal.losses.registry import Loss, Parameter
from rank_xmodal.losses.smoothap import smoothap
from rank_xmodal.losses.softmax import softmax

__all__ = [
    "REGISTRY",
    "Loss",
    "Parameter",
    "approxndcg",
    "bce",
    "get",
    "hinge",
    "lambdaloss",
    "lambdarank",
    "listmle",
    "listnet",
    "names",
    "neuralndcg",
    "ranknet",
    "smoothap",
    "softmax",
]

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
            why="sigma 1 and 4 are alike on scenes (R@1 within 0.1): the ranker learns the scale of its scores; no "
            "truncation, so that a positive anywhere in the list has a gradient",
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
            why="temperatures of 0.25 to 1 are alike; above, the sort is too soft to tell ranks apart and a small set "
            "learns less (+2.7 instead of +5.8 points at 4); 50 steps as in allRank",
        ),
        Loss(
            "listnet",
            listnet,
            labels="graded",
            paper="Cao et al.: Learning to Rank: From Pairwise Approach to Listwise Approach, ICML 2007, "
            "doi:10.1145/1273496.1273513",
            descriptions={"temperature": "of the softmax over the scores"},
            why="0.5, 1 and 2 are alike on scenes (R@1 within 0.3): the ranker learns the scale of its scores",
        ),
        Loss(
            "ranknet",
            ranknet,
            labels="graded",
            paper="Burges et al.: Learning to Rank using Gradient Descent, ICML 2005, doi:10.1145/1102351.1102363",
            descriptions={"sigma": "steepness of the pair's logistic loss"},
            why="1 and 4 are alike on scenes (R@1 within 0.5), and 1 is the paper's",
        ),
        Loss(
            "lambdaloss",
            lambdaloss,
            labels="graded",
            paper="Wang et al.: The LambdaLoss Framework for Ranking Metric Optimization, CIKM 2018, "
            "doi:10.1145/3269206.3271784",
            descriptions={
                "weighting": "of the pairs: NDCG-Loss2++, NDCG-Loss2 or NDCG-Loss1 of the paper",
                "mu": "weight of ndcg2 in ndcg2++; the others ignore it",
                "sigma": "steepness of the pair's logistic loss",
                "k": _TRUNCATION,
            },
            why="the paper's best weighting with its mu; sigma and k as in lambdarank",
        ),
        Loss(
            "approxndcg",
            approxndcg,
            labels="graded",
            paper="Qin, Liu, Li: A General Approximation Framework for Direct Optimization of Information Retrieval "
            "Measures, Information Retrieval 2010, doi:10.1007/s10791-009-9124-x; with neural networks: Bruch et al., "
            "SIGIR 2019, doi:10.1145/3331184.3331347",
            descriptions={
                "alpha": "steepness of the smooth ranks: higher is closer to NDCG and has a smaller gradient"
            },
            why="the paper's 10 is for scores between 0 and 1; the ranker's differ by several units",
        ),
        Loss(
            "smoothap",
            smoothap,
            labels="graded",
            paper="Brown et al.: Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval, ECCV 2020, "
            "arXiv:2007.12163",
            descriptions={"temperature": "of the smooth ranks: lower is closer to AP and has a smaller gradient"},
            why="the paper's 0.01 is for cosines; the ranker's scores differ by several units",
        ),
        Loss(
            "listmle",
            listmle,
            labels="graded",
            paper="Xia et al.: Listwise Approach to Learning to Rank: Theory and Algorithm, ICML 2008, "
            "doi:10.1145/1390156.1390306",
            descriptions={},
            why="it has no parameter: the ranker learns the scale of its scores",
        ),
        Loss(
            "softmax",
            softmax,
            labels="graded",
            paper="van den Oord, Li, Vinyals: Representation Learning with Contrastive Predictive Coding, 2018, "
            "arXiv:1807.03748",
            descriptions={"temperature": "of the softmax over the scores"},
            why="as listnet, which it equals on lists with one relevant item",
        ),
        Loss(
            "hinge",
            hinge,
            labels="graded",
            paper="Joachims: Optimizing Search Engines using Clickthrough Data, KDD 2002, doi:10.1145/775047.775067",
            descriptions={"margin": "by which a pair's scores are to differ"},
            why="a margin of one spread; any other only rescales the scores",
        ),
        Loss(
            "bce",
            bce,
            labels="graded",
            paper="Nallapati: Discriminative Models for Information Retrieval, SIGIR 2004; in a survey: Liu: Learning "
            "to Rank for Information Retrieval, 2009, doi:10.1561/1500000016",
            descriptions={},
            why="it has no parameter; the output's bias takes up how rare relevant items are",
        ),
    )
}


def names() -> tuple[str, ...]:
    """Return the names of all losses."""
    return tuple(REGISTRY)


def get(name: str, **params: Any) -> Callable[..., Tensor]:
    """Look up a loss and fix its parameters.

    Parameters
    ----------
    name : str
    **params : Any
        Parameters of the loss; those left out keep their defaults.

    Returns
    -------
    Callable
        (scores, labels, reduction="mean") to the loss.

    Raises
    ------
    UserError
        An unknown name, an unknown parameter or a bad value; names the nearest known one.
    """
    if name not in REGISTRY:
        raise UserError(f"unknown loss {name!r}.{did_you_mean(name, REGISTRY)} Losses: {', '.join(REGISTRY)}")
    return REGISTRY[name].configured(**params)
