"""Maps of one side that more than one projection uses, and applying them to a table."""

from __future__ import annotations

import torch
from torch import nn

BLOCK = 8192  # rows at a time where a whole table in float32 or float64 would take gigabytes

Maps = tuple[nn.Module, nn.Module]  # of images and of texts, (..., d) -> (..., k)


class Centred(nn.Module):
    """``(x - mean) weight``: as one affine map its two large parts would cancel in float32."""

    mean: torch.Tensor
    weight: torch.Tensor

    def __init__(self, mean: torch.Tensor, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("weight", weight.float())

    @classmethod
    def blank(cls, dim: int, width: int) -> Centred:
        """Return a map (..., d) -> (..., k) whose tensors are still to be loaded."""
        return cls(torch.zeros(dim), torch.zeros(dim, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., d) to (..., k)."""
        return (x - self.mean) @ self.weight


def undrawn_linear(inward: int, outward: int) -> nn.Linear:
    """Return a linear layer whose weights are still to be set; torch's own would draw from the global generator."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inward, outward)
    return layer


def blank_linear_maps(dim: int) -> tuple[nn.Linear, nn.Linear]:
    """Return two affine maps (d -> d) whose tensors are still to be loaded."""
    return undrawn_linear(dim, dim), undrawn_linear(dim, dim)


def identity_maps(dim: int, device: torch.device | str) -> Maps:
    """Return two affine maps (d -> d) that change nothing yet.

    CLIP's two sides share a space already. From a random start a small training set would first have to find back
    what CLIP knows.
    """
    maps = blank_linear_maps(dim)
    for layer in maps:
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
        layer.to(device)
    return maps


@torch.no_grad()
def apply(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Map (n, d) to (n, k) block by block, without gradients."""
    return torch.cat([module(block) for block in x.split(BLOCK)])


class Shifted(nn.Module):
    """``x - mean``."""

    mean: torch.Tensor

    def __init__(self, mean: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., d) to the same shape."""
        return x - self.mean
