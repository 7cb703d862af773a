"""The scores of a pair that a combination is made of, all fitted on the same training pairs.

Each score is an inner product of the candidate's own embedding with a vector that the query decides, times a number
that the candidate decides; of the score "neighbours" the candidate decides the vector. So a list costs seven products a
candidate, whatever the maps behind them, and a corpus a vector and sixteen numbers an item.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.data.groups import owners
from rank_xmodal.data.memo import memo
from rank_xmodal.retrieval.query_bank import NEIGHBOURS, choose_bank, hubness
from rank_xmodal.scorers.context_aware.slow_fits import slow_fits
from rank_xmodal.scorers.projections.base import Projection
from rank_xmodal.scorers.projections.centred import Centred
from rank_xmodal.scorers.projections.gaussian import Gaussian
from rank_xmodal.scorers.projections.neighbours import Predicted, known_rows, predicted
from rank_xmodal.scorers.projections.pairs import TrainingPairs

Score = Literal["cosine", "centred", "gaussian", "convex", "vsepp", "neighbours"]
# The first are products with the candidate's own embedding.
_PRODUCTS = ("cosine", "centred", "gaussian", "convex, strong", "convex, weak", "vsepp")
SCORES = (*_PRODUCTS, "neighbours")
# What the candidate alone decides: hubness in each score, and the Gaussian's own term.
ALONE = (*(f"{name}, hubness" for name in SCORES), "cosine, hubness of 3", "cosine, log mean exp", "gaussian, own")
# Each score less half of its hubness, as CSLS has it.
CORRECTED = tuple(f"{name}, CSLS" for name in SCORES)
FEATURES = (*SCORES, *ALONE, *CORRECTED)


def of_scores(names: Sequence[Score] | None) -> dict[str, bool]:
    """Return of each of `FEATURES` whether it comes from these scores, or from any if there are none named."""
    return {feature: names is None or feature.split(", ")[0] in names for feature in FEATURES}


_ITSELF = 0.9995  # cosine of centred embeddings, above which a candidate is a known one
_FEW = 3  # neighbours of the second hubness
_SHARPNESS = 20.0  # of the log mean exp over all bank queries
_BLOCK = 16_000_000  # products in one matrix of those held at a time: larger ones are no faster


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
    bank : Tensor (n, d), float16
    known, answers : Tensor (m, d), float16
        Training candidates and what was asked for them, both centred; see `neighbours`.
    bank_owner : Tensor (n,) and known_owner : Tensor (m,), int64
        Which bank queries ask for which training candidates: equal numbers belong together.
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
    known: Tensor
    answers: Tensor
    bank_owner: Tensor
    known_owner: Tensor

    @classmethod
    def fit(cls, data: EmbeddingSet, direction: Direction, seed: int, device: torch.device) -> Evidence:
        """Fit every score on the pairs of the split train."""
        image, text = _fitted(data, seed, str(device))
        sides = (text, image) if direction == "t2i" else (image, text)
        query, candidate = sides
        # i' P N Q' t moves the text t by P N Q' t, and the image i by Q N' P' i.
        moves = [m if direction == "t2i" else m.T for m in image["moves"]]
        rows = choose_bank(data, direction, seed=seed)
        bank = torch.from_numpy(np.asarray(data.queries(direction)[rows], dtype=np.float16)).to(device)
        place = torch.from_numpy(rows).to(device)
        return cls(
            query["mean"], candidate["mean"], query["gaussian"], candidate["gaussian"], image["penalty"],
            torch.stack(moves), query["map"], query["bias"], candidate["map"], candidate["bias"], bank,
            candidate["known"], candidate["answers"], query["owner"][place], candidate["known_owner"],
        )  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        """Return its tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device) -> Evidence:
        """Return the same on a device."""
        return Evidence(**{name: value.to(device) for name, value in self.state().items()})

    def centred(self, query: Tensor) -> Tensor:
        """Return what "neighbours" is asked by, (..., d)."""
        return F.normalize(query - self.query_mean, dim=-1)

    def asks(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the query decides: vectors (B, 6, d) to multiply the candidate with, and what to add (B, 6)."""
        centred = self.centred(query)
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

    @functools.cached_property
    def _asked(self) -> tuple[Tensor, Tensor]:
        """The bank centred, and as VSE++ maps it, (n, d) each."""
        bank = self.bank.float()
        mapped = F.normalize(bank @ self.query_map.T + self.query_bias, dim=-1)
        return self.centred(bank), mapped

    @functools.cached_property
    def _predicted(self) -> Predicted:
        return Predicted(self.candidate_mean, self.known, self.answers).to(self.bank.device)

    def _own(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return which of the known (n, m) and of the bank (n, b) are a candidate's own, bool.

        A corpus may hold training items. Their own queries make them no hubs, and give no answer. Those that the table
        of the known has no room for are not recognised.
        """
        hit = like > _ITSELF
        itself, asked = torch.zeros_like(hit), hit.new_zeros(len(hit), len(self.bank_owner))
        for row in hit.any(dim=1).nonzero().flatten().tolist():
            owners = self.known_owner[hit[row]]
            itself[row] = torch.isin(self.known_owner, owners)
            asked[row] = torch.isin(self.bank_owner, owners)
        return itself, asked

    def of_candidates(self, candidates: Tensor) -> Tensor:
        """Return what each candidate alone decides, (m, d) -> (m, d + 6 + 10).

        What "neighbours" takes it for, its factor in each of the other scores, and `ALONE`.
        """
        step = max(1, _BLOCK // max(1, len(self.bank), len(self.known)))
        return torch.cat([self._of_some(block.float()) for block in candidates.split(step)])

    def _of_some(self, candidates: Tensor) -> Tensor:
        # The maps are put on the candidates here, not on the bank, of which there is more.
        moved = candidates - self.candidate_mean
        far = moved.norm(dim=-1).clamp(min=1e-12)
        centred = moved / far[:, None]
        turned = centred @ self.candidate_gaussian
        own = turned.square() @ self.penalty
        other = candidates @ self.candidate_map.T + self.candidate_bias
        length = other.norm(dim=-1).clamp(min=1e-12)
        bank, (bank_centred, bank_mapped) = self.bank.float(), self._asked
        like = centred @ self._predicted.known.float().T
        itself, asked = self._own(like)
        answer = F.normalize(self._predicted.answer(like.masked_fill_(itself, -torch.inf)), dim=-1)
        del like, itself  # as large as a block, of which one is held at a time
        sides = [
            (candidates, bank), (centred, bank_centred), (turned @ self.query_gaussian.T, bank_centred),
            *((candidates + candidates @ move, bank) for move in self.moves), (other / length[:, None], bank_mapped),
            (answer, bank_centred),
        ]  # fmt: skip
        one = torch.ones_like(far)
        factors = torch.stack([one, 1 / far, 1 / far, one, one, 1 / length], -1)
        hubs = []
        for name, (candidate, query) in zip(SCORES, sides, strict=True):
            found = candidate @ query.T
            if name == "gaussian":
                found -= own[:, None]
            found.masked_fill_(asked, -torch.inf)
            near = found.topk(min(NEIGHBOURS, found.shape[1]), dim=1).values
            hubs.append(hubness(near))
            if name == "cosine":
                few = hubness(near[:, :_FEW])
                spread = found.mul_(_SHARPNESS).logsumexp(1).clamp(min=-_SHARPNESS) - math.log(found.shape[1])
            del found
        return torch.cat([answer, factors, torch.stack([*hubs, few, spread / _SHARPNESS, own], -1)], -1)

    def features(self, query: Tensor, candidates: Tensor, alone: Tensor) -> Tensor:
        """Return `FEATURES` of every pair, (B, L, F), from (B, d), (B, L, d) and what `of_candidates` gave."""
        answer, rest = alone.tensor_split([query.shape[1]], dim=-1)
        return self.joined(query, candidates, rest, torch.einsum("bld,bd->bl", answer, self.centred(query)))

    def joined(self, query: Tensor, candidates: Tensor, rest: Tensor, neighbours: Tensor) -> Tensor:
        """Return the same where the score "neighbours" is known, (B, L), and `rest` is (B, L, 6 + 10)."""
        vectors, added = self.asks(query)
        factors, rest = rest.tensor_split([len(_PRODUCTS)], dim=-1)
        scores = (torch.einsum("bld,bsd->bls", candidates, vectors) + added[:, None]) * factors
        scores = torch.cat([scores, neighbours[..., None]], -1)
        whole = scores.clone()
        whole[..., SCORES.index("gaussian")] -= rest[..., -1]
        return torch.cat([scores, rest, whole - rest[..., : len(SCORES)] / 2], -1)


@memo(most=12)  # for the next loss or direction
def _fitted(data: EmbeddingSet, seed: int, device: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the maps of images and of texts."""
    centred, gaussian = Centred(device=device).fit(data, "t2i"), Gaussian(device=device).fit(data, "t2i")
    slow = slow_fits(data, seed, device)
    pairs = TrainingPairs.gather(data, device)
    means = (_maps(centred)[0].get_buffer("mean"), _maps(centred)[1].get_buffer("mean"))
    tables = predicted(pairs, "image", means), predicted(pairs, "text", means)
    owner, rows = owners(data)[::-1], (pairs.image_rows, pairs.text_rows)
    sides: list[dict[str, Tensor]] = []
    for place, side in enumerate(("image", "text")):
        sides.append(
            {
                "mean": _maps(centred)[place].get_buffer("mean"),
                "gaussian": _maps(gaussian)[place].get_buffer("weight"),
                "map": slow[f"{side}_map"],
                "bias": slow[f"{side}_bias"],
                "penalty": gaussian.penalty.to(device),
                "owner": torch.from_numpy(owner[place]).to(device),
                "known_owner": torch.from_numpy(owner[place][rows[place][known_rows(len(rows[place]))]]).to(device),
                "known": tables[place].known,
                "answers": tables[place].answers,
                "moves": slow["moves"],
            }
        )
    return sides[0], sides[1]


def _maps(scorer: Projection) -> tuple[nn.Module, nn.Module]:
    assert scorer.maps is not None
    return scorer.maps
