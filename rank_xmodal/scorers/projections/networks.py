"""Networks of two layers over standardised features, whose weights come from a generator of their own."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rank_xmodal.scorers.projections.maps import undrawn_linear


class Standardised(nn.Module):
    """``(x - mean) / std``, feature by feature; a constant feature becomes 0."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float())

    @classmethod
    def of(cls, table: Tensor) -> Standardised:
        """Take the statistics of the rows of a table (n, d)."""
        exact = table.double()
        mean, std = exact.mean(0), exact.std(0, correction=0)
        # What differs by rounding alone is constant, too.
        constant = std <= 1e-6 * exact.abs().amax(0)
        return cls(mean, std.masked_fill(constant, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., d) to the same shape."""
        return (x - self.mean) / self.std


def blank_network(dim: int, hidden: int, width: int) -> nn.Sequential:
    """Return ``W2 relu(W1 s(x) + b1) + b2`` with s `Standardised`, (..., dim) -> (..., width), its tensors unset."""
    return nn.Sequential(
        Standardised(torch.zeros(dim), torch.ones(dim)),
        undrawn_linear(dim, hidden),
        nn.ReLU(),
        undrawn_linear(hidden, width),
    )


def drawn(module: nn.Module, draw: torch.Generator) -> nn.Module:
    """Give the linear layers of a module weights from `draw` by Glorot's rule and biases 0, and return it."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            bound = math.sqrt(6 / (part.in_features + part.out_features))
            with torch.no_grad():
                part.weight.copy_((torch.rand(part.weight.shape, generator=draw) * 2 - 1) * bound)
                part.bias.zero_()
    return module


def network(table: Tensor, hidden: int, width: int, draw: torch.Generator) -> nn.Sequential:
    """Return such a network for the rows of a table (n, d), with its statistics and weights from `draw`."""
    made = blank_network(table.shape[1], hidden, width)
    made[0] = Standardised.of(table)
    drawn(made, draw)
    return made.to(table.device)
