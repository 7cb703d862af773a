"""The fits that take their time, kept in the embedding set: four losses in both directions make each of them once."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.files import sha256
from rank_xmodal.files.tensors import read_checked, write_checked
from rank_xmodal.scorers.projections.convex import Convex
from rank_xmodal.scorers.projections.vsepp import VSEPP

FOLDER = "scores"
_NAMES = ("moves", "image_map", "image_bias", "text_map", "text_bias")


def slow_fits(data: EmbeddingSet, seed: int, device: str) -> dict[str, Tensor]:
    """Return the convex maps and VSE++'s, fitted on the split train or taken up from an earlier fit.

    Returns
    -------
    dict
        moves (2, d, d): what the convex maps of each strength add, image' move text; image_map, text_map (d, d) and
        image_bias, text_bias (d,) of VSE++.
    """
    path = None if data.kept is None else data.kept / FOLDER / f"{_key(data, seed)}.safetensors"
    if path is not None and path.is_file():
        with suppress(UserError):  # cut short or damaged; made again below
            found, _ = read_checked(path, device)
            if set(found) == set(_NAMES):
                return found
    found = _made(data, seed, device)
    if path is not None:
        # What can't be kept, in a set that may not be written to, is made again the next time.
        with suppress(OSError, UserError):
            write_checked(path, found)
    return found


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


def _key(data: EmbeddingSet, seed: int) -> str:
    train = [(table["split"] == "train").to_numpy() for table in (data.images, data.texts)]
    return sha256(json.dumps([data.fingerprint, seed, _code(), torch.__version__]).encode(), *train)[:24]


@lru_cache
def _code() -> str:
    """Return a digest of the code of the fits: what another version made is made again."""
    folder = Path(__file__).parents[1] / "projections"
    return sha256(*(path.read_bytes() for path in sorted(folder.glob("*.py"))))
