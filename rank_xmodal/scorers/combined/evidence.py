"""The scores of a pair that a combination is made of, all fitted on the same training pairs.

Each score is an inner product of the candidate's own embedding with a vector that the query decides, times a number
that the candidate decides. So a list costs six products a candidate, whatever the maps behind them, and a corpus
fifteen numbers an item.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.retrieval.query_bank import NEIGHBOURS, choose_bank
from rank_xmodal.scorers.projections.centred import Centred
from rank_xmodal.scorers.projections.convex import Convex
from rank_xmodal.scorers.projections.gaussian import Gaussian
from rank_xmodal.scorers.projections.vsepp import VSEPP

SCORES = ("cosine", "centred", "gaussian", "convex, strong", "convex, weak", "vsepp")
# What the candidate alone decides: hubness in each score, and the Gaussian's own term.
ALONE = (*(f"{name}, hubness" for name in SCORES), "cosine, hubness of 3", "cosine, log mean exp", "gaussian, own")
# Each score less half of its hubness, as CSLS has it.
CORRECTED = tuple(f"{name}, CSLS" for name in SCORES)
FEATURES = (*SCORES, *ALONE, *CORRECTED)

_FEW = 3  # neighbours of the second hubness
_SHARPNESS = 20.0  # of the log mean exp over all bank queries
_BLOCK = 64_000_000  # products held at a time


@dataclass(frozen=True)
class Evidence:
    """Maps of one direction, and the query bank that hubness is measured with.

    Attributes
    ----------
    query_mean, candidate_mean : Tensor (d,)
    query_gaussian, candidate_gaussian : Tensor (d, d)
        Whitening weights of both sides.
    penalty : Tensor (d,)
        Of the Gaussian's squares.
    moves : Tensor (2, d, d)
        What the convex maps add to a query: q + move q.
    query_map, candidate_map : Tensor (d, d), and biases (d,)
        VSE++'s.
    bank : Tensor (n, d)
    """

    query_mean: Tensor
    candidate_mean: Tensor
    query_gaussian: Tensor
    candidate_gaussian: Tensor
    penalty: Tensor
    moves: Tensor
    query_map: Tensor
    query_bias: Tensor
    candidate_map: Tensor
    candidate_bias: Tensor
    bank: Tensor

    @classmethod
    def fit(cls, data: EmbeddingSet, direction: Direction, seed: int, device: torch.device) -> Evidence:
        """Fit every score on the pairs of the split train."""
        image, text = _fitted(_Key(data), seed, str(device))
        sides = (text, image) if direction == "t2i" else (image, text)
        query, candidate = sides
        # i' P N Q' t moves the text t by P N Q' t, and the image i by Q N' P' i.
        moves = [m if direction == "t2i" else m.T for m in image["moves"]]
        rows = choose_bank(data, direction, seed=seed)
        bank = torch.from_numpy(np.asarray(data.queries(direction)[rows], dtype=np.float32)).to(device)
        return cls(
            query["mean"], candidate["mean"], query["gaussian"], candidate["gaussian"], image["penalty"],
            torch.stack(moves), query["map"], query["bias"], candidate["map"], candidate["bias"], bank,
        )  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        """Return its tensors by name."""
        return dict(vars(self))

    def to(self, device: torch.device) -> Evidence:
        """Return the same on a device."""
        return Evidence(**{name: value.to(device) for name, value in self.state().items()})

    def asks(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the query decides: vectors (B, 6, d) to multiply the candidate with, and what to add (B, 6)."""
        centred = F.normalize(query - self.query_mean, dim=-1)
        gaussian = (centred @ self.query_gaussian) @ self.candidate_gaussian.T
        mapped = F.normalize(query @ self.query_map.T + self.query_bias, dim=-1)
        vectors = [
            query,
            centred,
            gaussian,
            *(query + query @ move.T for move in self.moves),
            mapped @ self.candidate_map,
        ]
        zero = torch.zeros_like(query[:, 0])
        added = [
            zero, -(centred @ self.candidate_mean), -(gaussian @ self.candidate_mean), zero, zero,
            mapped @ self.candidate_bias,
        ]  # fmt: skip
        return torch.stack(vectors, 1), torch.stack(added, 1)

    def of_candidates(self, candidates: Tensor) -> Tensor:
        """Return what each candidate alone decides, (m, d) -> (m, 6 + 9): its factor in each score, and `ALONE`."""
        step = max(1, _BLOCK // max(1, len(self.bank)))
        vectors, added = self.asks(self.bank)
        return torch.cat([self._of_some(block.float(), vectors, added) for block in candidates.split(step)])

    def _of_some(self, candidates: Tensor, vectors: Tensor, added: Tensor) -> Tensor:
        centred = (candidates - self.candidate_mean).norm(dim=-1).clamp(min=1e-12)
        mapped = (candidates @ self.candidate_map.T + self.candidate_bias).norm(dim=-1).clamp(min=1e-12)
        one = torch.ones_like(centred)
        factors = torch.stack([one, 1 / centred, 1 / centred, one, one, 1 / mapped], -1)
        turned = (candidates - self.candidate_mean) / centred[:, None] @ self.candidate_gaussian
        own = turned.square() @ self.penalty
        hubs = []
        for place in range(len(SCORES)):
            found = (candidates @ vectors[:, place].T + added[:, place]) * factors[:, place, None]
            if SCORES[place] == "gaussian":
                found -= own[:, None]
            near = found.topk(min(NEIGHBOURS, found.shape[1]), dim=1).values
            hubs.append(near.mean(1))
            if SCORES[place] == "cosine":
                few = near[:, :_FEW].mean(1)
                spread = torch.logsumexp(_SHARPNESS * found, 1) - float(np.log(found.shape[1]))
        return torch.cat([factors, torch.stack([*hubs, few, spread / _SHARPNESS, own], -1)], -1)

    def features(self, query: Tensor, candidates: Tensor, alone: Tensor) -> Tensor:
        """Return `FEATURES` of every pair, (B, L, 21), from (B, d), (B, L, d) and (B, L, 15) of `of_candidates`."""
        vectors, added = self.asks(query)
        count = len(SCORES)
        scores = (torch.einsum("bld,bsd->bls", candidates, vectors) + added[:, None]) * alone[..., :count]
        rest = alone[..., count:]
        whole = scores.clone()
        whole[..., SCORES.index("gaussian")] -= rest[..., -1]
        return torch.cat([scores, rest, whole - rest[..., :count] / 2], -1)


class _Key:
    """A set, told from others by its fingerprint: what is fitted on it is kept for the next loss or direction."""

    def __init__(self, data: EmbeddingSet) -> None:
        self.data = data

    def __hash__(self) -> int:
        return hash(self.data.fingerprint)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other.data.fingerprint == self.data.fingerprint


@functools.lru_cache(maxsize=12)
def _fitted(key: _Key, seed: int, device: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the maps of images and of texts."""
    data = key.data
    centred, gaussian, convex, vsepp = (
        scorer(device=device).fit(data, "t2i", seed=seed) for scorer in (Centred, Gaussian, Convex, VSEPP)
    )
    assert isinstance(convex, Convex)
    assert isinstance(gaussian, Gaussian)
    residual = _maps(convex)[0]
    into, out = residual.get_buffer("into"), residual.get_buffer("out")
    sides: list[dict[str, Tensor]] = []
    for place in range(2):
        linear = _maps(vsepp)[place]
        sides.append(
            {
                "mean": _maps(centred)[place].get_buffer("mean"),
                "gaussian": _maps(gaussian)[place].get_buffer("weight"),
                "map": linear.get_parameter("weight"),
                "bias": linear.get_parameter("bias"),
                "penalty": gaussian.penalty.to(into.device),
                "moves": torch.stack([into @ core @ out.T for core in convex.cores.to(into.device)]),
            }
        )
    return sides[0], sides[1]


def _maps(scorer: object) -> tuple[nn.Module, nn.Module]:
    maps: tuple[nn.Module, nn.Module] = scorer.maps  # type: ignore[attr-defined]
    return maps
