"""Projections of two views as eigenproblems: each method is a pair of matrices, solved once for each ridge.

Directions maximise ``v' A v / v' B v``, v the directions of all views one below another, B block diagonal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from rank_xmodal.scorers.projections.cca import Covariances, canonical, inverse_root
from rank_xmodal.scorers.projections.maps import Centred, Maps
from rank_xmodal.scorers.projections.nearest import neighbour_graph
from rank_xmodal.scorers.projections.pairs import TrainingPairs

FOURIER = 500  # random features of a side: a kernel's canonical correlations change little with more
_SAME, _OTHER = 10, 20  # neighbours of the same class and of others in the graphs of GMMFA
_SAMPLE = 1_000  # items whose median distance is the kernel's width

Directions = tuple[Tensor, Tensor, Tensor]  # of images (d, k), of texts (e, k), values (k,) descending
Solve = Callable[..., Directions]


@dataclass(frozen=True)
class Standard:
    """A table less its mean, divided by one number: its mean variance is 1, what its columns have of it stays.

    Attributes
    ----------
    table : Tensor (n, d), float64
    mean : Tensor (d,)
    scale : float
    """

    table: Tensor
    mean: Tensor
    scale: float

    @classmethod
    def of(cls, table: Tensor) -> Standard:
        """Take a table (n, d) of any float; of a constant one only zeros are left."""
        mean = table.double().mean(0)
        centred = table.double() - mean
        scale = max(float(centred.square().mean().sqrt()), 1e-30)
        return cls(centred / scale, mean, scale)

    def map(self, weight: Tensor) -> Centred:
        """Return the map of raw rows whose standardised form is multiplied by weight (d, k)."""
        # A loaded one is contiguous, too: the last bit of a product depends on it.
        return Centred(self.mean, (weight / self.scale).contiguous())


def generalised(between: Tensor, within: list[Tensor], ridge: float) -> tuple[Tensor, Tensor]:
    """Return the values (k,), descending, and the vectors (k, k) as columns of ``A v = value (B + r I) v``.

    Parameters
    ----------
    between : Tensor (k, k)
        A, symmetric.
    within : list of Tensor
        The blocks of B, positive semidefinite; directions in which one has no variance are left out.
    ridge : float
        r as a share of the mean variance of each block.
    """
    root = torch.block_diag(*[inverse_root(block, ridge) for block in within])
    values, vectors = torch.linalg.eigh(root @ between @ root)
    return values.flip(0), root @ vectors.flip(1)


def pairs_of(pairs: TrainingPairs) -> tuple[Tensor, Tensor]:
    """Return the rows of images and of texts of each pair, (P,) each."""
    device = pairs.images.device
    return torch.from_numpy(pairs.image).to(device), torch.from_numpy(pairs.text).to(device)


def cca(covariances: Covariances) -> Solve:
    """Canonical correlations; see `canonical`."""
    return lambda ridge: canonical(covariances, ridge)


def pls(covariances: Covariances) -> Solve:
    """Partial least squares: the singular vectors of the cross-covariance, CCA's problem with ``B = I``.

    References
    ----------
    Wegelin: A Survey of Partial Least Squares Methods, with Emphasis on the Two-Block Case, 2000 (PLS-SVD); for
    retrieval: Sharma and Jacobs: Bypassing Synthesis: PLS for Face Recognition with Pose, Low-Resolution and Sketch,
    CVPR 2011.
    """
    x, y = (torch.eye(len(mean)).to(mean) for mean in (covariances.x_mean, covariances.y_mean))
    white = replace(covariances, xx=x, yy=y)
    return lambda: canonical(white, 0.0)


def cca3(pairs: TrainingPairs, images: Standard, texts: Standard, labels: tuple[Tensor, Tensor]) -> Solve:
    """Three-view CCA: the classes of a pair, those of its image or its text, are the third view.

    A holds the covariances of all three views with each other, B each view's own.

    References
    ----------
    Gong et al.: A Multi-View Embedding Space for Modeling Internet Images, Tags, and Their Semantics, IJCV 2014, arXiv
    1212.4522.
    """
    image, text = pairs_of(pairs)
    views = [images.table[image], texts.table[text], ((labels[0][image] + labels[1][text]) > 0).double()]
    views = [view - view.mean(0) for view in views]
    whole = torch.cat(views, dim=1)
    between, within = whole.T @ whole / len(whole), [view.T @ view / len(whole) for view in views]
    d, e = len(images.mean), len(texts.mean)

    def solve(ridge: float) -> Directions:
        values, vectors = generalised(between, within, ridge)
        return vectors[:d], vectors[d : d + e], values

    return solve


def gmmfa(pairs: TrainingPairs, images: Standard, texts: Standard, labels: tuple[Tensor, Tensor]) -> Solve:
    """Generalised multiview marginal Fisher analysis.

    A's blocks are ``X' L X`` of a graph between each item and its 20 nearest of other classes, B's of one between it
    and its 10 nearest of its own; A's off-diagonal block is the covariance of pairs times the coupling. Each block is
    divided by its mean diagonal, in place of the paper's ratios of traces. Items that share a class are of one class.

    References
    ----------
    Sharma et al.: Generalized Multiview Analysis: A Discriminative Latent Space, CVPR 2012.
    """
    image, text = pairs_of(pairs)
    cross = images.table[image].T @ texts.table[text] / len(image)
    margins, within = [], []
    for side, own in ((images, labels[0]), (texts, labels[1])):
        margins.append(_levelled(_spread(side.table, neighbour_graph(side.table, _OTHER, but=own))))
        within.append(_levelled(_spread(side.table, neighbour_graph(side.table, _SAME, like=own))))
    d = len(images.mean)

    def solve(ridge: float, coupling: float) -> Directions:
        between = torch.block_diag(*margins)
        between[:d, d:] = coupling * cross
        between[d:, :d] = coupling * cross.T
        values, vectors = generalised(between, within, ridge)
        return vectors[:d], vectors[d:], values

    return solve


def _spread(x: Tensor, found: tuple[sp.csr_matrix, float]) -> Tensor:
    """Return ``X' (D - W) X`` of a graph W, (d, d)."""
    graph = found[0]
    degree = torch.from_numpy(np.asarray(graph.sum(1))).to(x)  # (n, 1)
    linked = torch.from_numpy(graph @ x.cpu().numpy()).to(x)
    return x.T @ (degree * x - linked)


def _levelled(matrix: Tensor) -> Tensor:
    return matrix / matrix.diagonal().mean().clamp(min=1e-30)


class Fourier(nn.Module):
    """``sqrt(2 / D) cos(x frequency + phase)``: products of such features approximate a Gaussian kernel.

    References
    ----------
    Rahimi and Recht: Random Features for Large-Scale Kernel Machines, NeurIPS 2007.
    """

    frequency: Tensor
    phase: Tensor

    def __init__(self, frequency: Tensor, phase: Tensor) -> None:
        super().__init__()
        self.register_buffer("frequency", frequency.float())
        self.register_buffer("phase", phase.float())

    @classmethod
    def drawn(cls, table: Tensor, draw: torch.Generator) -> Fourier:
        """Draw 500 features of a kernel as wide as the median distance of up to 1,000 rows of a table (n, d)."""
        rows = torch.randperm(len(table), generator=draw)[:_SAMPLE]
        width = torch.pdist(table[rows.to(table.device)].double()).median() if len(rows) > 1 else torch.tensor(1.0)
        frequency = torch.randn(table.shape[1], FOURIER, generator=draw).to(table.device) / width.clamp(min=1e-30)
        return cls(frequency, 2 * math.pi * torch.rand(FOURIER, generator=draw).to(table.device))

    @classmethod
    def blank(cls, dim: int) -> Fourier:
        """Return a map (..., d) -> (..., 500) whose tensors are still to be loaded."""
        return cls(torch.zeros(dim, FOURIER), torch.zeros(FOURIER))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., d) to (..., 500)."""
        return math.sqrt(2 / FOURIER) * torch.cos(x @ self.frequency + self.phase)


def reader(solve: Solve, maps: Callable[[Tensor, Tensor], Maps]) -> Callable[[Mapping[str, Any]], Maps]:
    """Return a function from settings to maps: the first `components` directions, each times its value ** power.

    Parameters
    ----------
    solve : function of a method's own settings to `Directions`
        Called once for each of their values.
    maps : function of the two weights (d, k) and (e, k)
    """
    solved = cache(solve)

    def read(values: Mapping[str, Any]) -> Maps:
        own = {key: value for key, value in values.items() if key not in ("power", "components")}
        images, texts, found = solved(**own)
        k = min(values["components"], len(found))
        weight = found[:k].clamp(min=0) ** values["power"]
        return maps((images[:, :k] * weight).contiguous(), (texts[:, :k] * weight).contiguous())

    return read
