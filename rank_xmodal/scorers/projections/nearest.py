"""Nearest training items: a map to the mean of what is known of them, and graphs over the training items themselves."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import cg
from torch import Tensor, nn

_ENTRIES = 2**24  # of a block of distances


def nearest(
    asking: Tensor, known: Tensor, k: int, norm: float = 1.0, *, but: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Return the distances to the k nearest of the known and their rows, (n, k) each, nearest first.

    Parameters
    ----------
    asking : Tensor (n, d)
    known : Tensor (m, d)
    k : int
        At most m of them.
    norm : float
        p of the distance: 1 for city block, which suits histograms, 2 for Euclidean.
    but : (Tensor (n, C), Tensor (m, C)) or None
        Items whose rows of these two have a positive product are passed over: what is left is at infinity.
    """
    size = max(1, _ENTRIES // max(1, len(known)))
    found = []
    for start in range(0, len(asking), size):
        distance = torch.cdist(asking[start : start + size], known, p=norm)
        if but is not None:
            distance = distance.masked_fill(but[0][start : start + size] @ but[1].T > 0, torch.inf)
        found.append(distance.topk(min(k, len(known)), dim=1, largest=False))
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


class Nearest(nn.Module):
    """``sum_j w_j answer_j / sum_j w_j`` over the k nearest of the known, ``w_j = exp(-sharpness distance_j)``.

    The sharpness is one over the scale: with an infinite scale it is 0, and every neighbour counts the same.

    Parameters
    ----------
    known : Tensor (m, d)
    answers : Tensor (m, C)
    k : int
    norm : float
        See `nearest`.
    scale : float
    """

    known: Tensor
    answers: Tensor
    sharpness: Tensor

    def __init__(self, known: Tensor, answers: Tensor, k: int, norm: float, scale: float = torch.inf) -> None:
        super().__init__()
        self.k, self.norm = k, norm
        self.register_buffer("known", known.float())
        self.register_buffer("answers", answers.float())
        self.register_buffer("sharpness", torch.tensor(1 / float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., d) to (..., C)."""
        distance, rows = nearest(x.reshape(-1, x.shape[-1]), self.known, self.k, self.norm)
        # A softmax is this weight over its sum, and doesn't vanish where all neighbours are far.
        weight = torch.softmax(-distance * self.sharpness, dim=1)
        found = torch.zeros(len(rows), self.answers.shape[1], device=x.device)
        for place in range(rows.shape[1]):  # all at once would take (n, k, C)
            found += weight[:, place, None] * self.answers[rows[:, place]]
        return found.view(*x.shape[:-1], -1)


def neighbour_graph(
    x: Tensor, k: int, *, but: Tensor | None = None, like: Tensor | None = None, heat: bool = False
) -> tuple[sp.csr_matrix, float]:
    """Return a symmetric graph of the k nearest others, city block, (n, n), and the mean distance along its edges.

    Parameters
    ----------
    x : Tensor (n, d)
    k : int
    but : Tensor (n, C) or None
        Labels: only items of other classes are neighbours.
    like : Tensor (n, C) or None
        Labels: only items that share a class are neighbours.
    heat : bool
        Whether an edge weighs ``exp(-distance / mean distance)``, and not 1.
    """
    if like is None:
        edges = [_others(x, k, but)]
    else:  # class by class
        members = [row.nonzero()[:, 0] for row in like.T if row.any()]
        within = [(rows, *_others(x[rows], k)) for rows in members]
        edges = [(rows[left], rows[right], distance) for rows, left, right, distance in within]
    left, right, distance = (torch.cat(part).cpu().numpy() for part in zip(*edges, strict=True))
    # Two items of two common classes are found twice.
    once = np.unique(left * len(x) + right, return_index=True)[1]
    left, right, distance = left[once], right[once], distance[once]
    mean = float(distance.mean()) if len(distance) else 1.0
    weight = np.exp(-distance / max(mean, 1e-30)) if heat else np.ones(len(left))
    graph = sp.csr_matrix((weight, (left, right)), shape=(len(x), len(x)))
    return graph.maximum(graph.T).tocsr(), mean


def _others(x: Tensor, k: int, but: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return edges from each item to its k nearest others: two ends and the distance."""
    distance, rows = nearest(x, x, k + 1, but=None if but is None else (but, but))
    left = torch.arange(len(x), device=x.device)[:, None].expand_as(rows)
    kept = (rows != left) & torch.isfinite(distance)
    kept &= kept.cumsum(1) <= k  # an item need not be its own nearest where there are duplicates
    return left[kept], rows[kept], distance[kept].double()


def propagate(graph: sp.csr_matrix, start: Tensor, alpha: float) -> Tensor:
    """Return ``(1 - alpha) (I - alpha D^-1/2 W D^-1/2)^-1 start``, (n, C): the limit of ``F <- alpha S F + start``.

    References
    ----------
    Zhou et al.: Learning with Local and Global Consistency, NeurIPS 2003.
    """
    degree = np.asarray(graph.sum(1)).ravel()
    root = np.divide(1, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0)
    scaled = sp.diags(root) @ graph @ sp.diags(root)
    matrix = sp.identity(len(degree), format="csr") - alpha * scaled
    columns = [cg(matrix, column, rtol=1e-10, atol=0.0)[0] for column in start.double().cpu().numpy().T]
    return (1 - alpha) * torch.from_numpy(np.stack(columns, axis=1)).to(start.device)
