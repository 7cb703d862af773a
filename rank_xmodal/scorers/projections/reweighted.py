"""Sparse regression of both sides onto their classes along a graph, by iteratively reweighted least squares.

JFSSL and JRL are the same problem with two graphs between the sides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import aslinearoperator
from torch import Tensor

from rank_xmodal.scorers.projections.class_chosen import shares
from rank_xmodal.scorers.projections.nearest import neighbour_graph
from rank_xmodal.scorers.projections.pairs import TrainingPairs

SMOOTH = 1e-6  # added to each squared norm: the l21 norm has no gradient at a row of zeros
NEIGHBOURS = 10  # in the graph of each side
_ROUNDS, _ENOUGH = 100, 1e-7  # at most; relative fall of the objective in the last

Links = list[list[Any]]  # [p][q], (n_p, n_q), whatever can be multiplied with a table by @


def same_class(labels: tuple[Tensor, Tensor]) -> Any:
    """Return ``w_ij = sum_c y_ic y_jc / sqrt(n_c m_c)``, (n, m): edges between items of two sides that share a class.

    JFSSL's are all 1; these sum to about 1 at each item, so that the two sides weigh as much as the neighbours do.
    """
    left, right = labels
    common = (left.sum(0) * right.sum(0)).clamp(min=1).rsqrt()
    return aslinearoperator((left * common).cpu().numpy()) @ aslinearoperator(right.T.cpu().numpy())


def same_pair(pairs: TrainingPairs) -> Any:
    """Return 1 where image and text are a pair, (n, m)."""
    return sp.csr_matrix(pairs.relevant.T, dtype=np.float64)


def links(tables: tuple[Tensor, Tensor], across: Any) -> Links:
    """Return edges within the sides, 1 / 10 to each of 10 nearest items, and `across` them, (n, m)."""
    own = [neighbour_graph(table, NEIGHBOURS)[0] / NEIGHBOURS for table in tables]
    return [[own[0], across], [across.T, own[1]]]


def quadratic(tables: tuple[Tensor, Tensor], edges: Links) -> Tensor:
    """Return ``X' (I - D^-1/2 W D^-1/2) X`` of X = block diagonal of the two tables, (d + e, d + e)."""
    ones = [np.ones((len(table), 1)) for table in tables]
    blocks, scaled = [], []
    for p in range(2):
        degree = edges[p][0] @ ones[0] + edges[p][1] @ ones[1]
        root = np.divide(1, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0)
        scaled.append(tables[p] * torch.from_numpy(root).to(tables[p]))
    for p in range(2):
        row = []
        for q in range(2):
            linked = torch.from_numpy(np.asarray(edges[p][q] @ scaled[q].cpu().numpy())).to(tables[p])
            row.append((tables[p].T @ tables[p] if p == q else 0) - scaled[p].T @ linked)
        blocks.append(torch.cat(row, dim=1))
    whole = torch.cat(blocks)
    return (whole + whole.T) / 2


class SparseRegression:
    r"""Finds U and V on images X and texts Z, standardised, of which Y and T hold the classes.

    .. math::
        \min \frac{1}{n} \|X U - Y\|^2 + \frac{1}{m} \|Z V - T\|^2 + s \sum_i \|w_i\|
        + g \, \mathrm{tr}(F' L F) / \sqrt{n m}

    w_i are the rows of W = [U; V], F = [X U; Z V], L the normalised Laplacian of `links`. The l21 norm makes it forget
    whole features. Each round solves a least squares problem that lies above the objective and touches it at the last
    solution, so that the objective never rises. Y's columns are centred: what a class has on average is no feature's.

    Parameters
    ----------
    tables : (Tensor (n, d), Tensor (m, e)), float64
        Centred.
    labels : (Tensor (n, C), Tensor (m, C))
        An item of several classes counts for each in equal parts.
    edges : Links

    References
    ----------
    Wang et al.: Joint Feature Selection and Subspace Learning for Cross-Modal Retrieval, TPAMI 2016 (edges across:
    `same_class`); Zhai et al.: Learning Cross-Media Joint Representation with Sparse and Semisupervised
    Regularization, TCSVT 2014 (`same_pair`).
    """

    def __init__(self, tables: tuple[Tensor, Tensor], labels: tuple[Tensor, Tensor], edges: Links) -> None:
        targets = [shares(own) - shares(own).mean(0) for own in labels]
        self.split = tables[0].shape[1]
        self.gram = torch.block_diag(*[table.T @ table / len(table) for table in tables])
        self.target = torch.cat([t.T @ y / len(t) for t, y in zip(tables, targets, strict=True)])
        self.graph = quadratic(tables, edges) / (len(tables[0]) * len(tables[1])) ** 0.5
        self.rounds = 0

    def objective(self, weight: Tensor, sparsity: float, graph: float) -> float:
        """Return the objective at W (d + e, C), its norms smoothed, less what is the same for all W."""
        fit = (weight * ((self.gram + graph * self.graph) @ weight - 2 * self.target)).sum()
        return float(fit + sparsity * _norms(weight).sum())

    def solve(self, sparsity: float, graph: float) -> tuple[Tensor, Tensor]:
        """Return U (d, C) and V (e, C)."""
        matrix = self.gram + graph * self.graph
        # A feature that never varies and has no neighbours would leave it singular.
        matrix = matrix + 1e-10 * torch.eye(len(matrix)).to(matrix)
        again = torch.ones(len(matrix)).to(matrix)
        last = float("inf")
        for self.rounds in range(1, _ROUNDS + 1):
            weight = torch.linalg.solve(matrix + sparsity * torch.diag(again), self.target)
            again = 1 / (2 * _norms(weight))
            now = self.objective(weight, sparsity, graph)
            if last - now <= _ENOUGH * abs(now):
                break
            last = now
        return weight[: self.split], weight[self.split :]


def _norms(weight: Tensor) -> Tensor:
    return (weight.square().sum(1) + SMOOTH).sqrt()
