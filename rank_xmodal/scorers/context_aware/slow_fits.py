"""The fits that take their time: four losses in both directions make each of them once."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.kept_fits import kept_fit
from rank_xmodal.scorers.projections.convex import Convex
from rank_xmodal.scorers.projections.vsepp import VSEPP

_CODE = Path(__file__).parents[1] / "projections"


def slow_fits(data: EmbeddingSet, seed: int, device: str) -> dict[str, Tensor]:
    """Return the convex maps and VSE++'s, fitted on the split train or taken up from an earlier fit.

    Returns
    -------
    dict
        moves (2, d, d): what the convex maps of each strength add, image' move text; image_map, text_map (d, d) and
        image_bias, text_bias (d,) of VSE++.
    """
    return kept_fit(data, [seed], _CODE, device, lambda: _made(data, seed, device))


def _made(data: EmbeddingSet, seed: int, device: str) -> dict[str, Tensor]:
    convex, vsepp = Convex(device=device), VSEPP(device=device)
    for scorer in (convex, vsepp):
        scorer.fit(data, "t2i", seed=seed)
    residual = _maps(convex)[0]
    into, out = residual.get_buffer("into"), residual.get_buffer("out")
    found = {"moves": torch.stack([into @ core @ out.T for core in convex.cores.to(into.device)])}
    for side, linear in zip(("image", "text"), _maps(vsepp), strict=True):
        found[f"{side}_map"], found[f"{side}_bias"] = linear.get_parameter("weight"), linear.get_parameter("bias")
    return {name: value.detach() for name, value in found.items()}


def _maps(scorer: Convex | VSEPP) -> tuple[nn.Module, nn.Module]:
    assert scorer.maps is not None
    return scorer.maps
