"""Corrections of the cosine by the query bank whose strength is chosen inside the training part."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import Self

from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.devices import pick_device
from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.list_tensors import ListTensors
from rank_xmodal.lists.needs import Needs
from rank_xmodal.lists.scoring import HeldOut
from rank_xmodal.retrieval.query_bank import choose_bank
from rank_xmodal.scorers.base import Scorer
from rank_xmodal.scorers.projections.pairs import table_of
from rank_xmodal.training.crossfit import inner_count, inner_folds
from rank_xmodal.training.watch import Watch

_ASKED = 2_000  # held-out queries of a fold that a strength is judged by
_BLOCK = 64_000_000  # products held at a time
Strength = tuple[float, ...]


class BankCorrected(Scorer):
    """``score = cosine(q, c) - penalty(c)``, the penalty from c's cosines to the training queries.

    Its strength is the one of `strengths` with the highest MRR in the inner folds: held-out queries among held-out
    candidates, with the other folds' queries as bank. Without folds it is the first. A validation has no say.

    Attributes
    ----------
    strengths : sequence of tuples
        What is tried; of equals the first is taken.
    strength : tuple
        The one chosen.
    """

    strengths: ClassVar[tuple[Strength, ...]]

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self.strength: Strength = self.strengths[0]
        self.bank: torch.Tensor | None = None

    @property
    def needs(self) -> Needs:
        """Embeddings."""
        return Needs(candidates=True)

    @property
    def fitted_on_pairs(self) -> bool:
        """No: one strength."""
        return False

    @abstractmethod
    def penalties(self, cosine: torch.Tensor, strengths: tuple[Strength, ...]) -> torch.Tensor:
        """Return each candidate's penalty at each strength, from its cosines to the bank, (m, n) -> (m, S)."""

    def fit(
        self,
        data: EmbeddingSet,
        direction: Direction,
        *,
        lists: ListTensors | None = None,
        validation: HeldOut | None = None,
        seed: int = 0,
        watch: Watch | None = None,
    ) -> Self:
        """Choose the strength in the inner folds, and take all training queries as bank; see `Scorer.fit`."""
        device = pick_device(self.settings.device)
        ranks: list[torch.Tensor] = []
        for rest, held in inner_folds(data, inner_count(data, "auto"), seed):
            self.bank = _bank(rest, direction, seed, device)
            queries, candidates = held.query_rows(direction, "train"), held.candidate_rows(direction, "train")
            queries = queries[np.linspace(0, len(queries) - 1, min(len(queries), _ASKED)).astype(np.int64)]
            offered = table_of(held.candidates(direction), candidates, device)
            found = self._of(offered, self.strengths)
            relevant = held.relevance_matrix(direction)[queries][:, candidates].astype(bool).toarray()
            cosine = table_of(held.queries(direction), queries, device) @ offered.T
            ranks.append(_reciprocal_ranks(cosine, found, torch.from_numpy(relevant).to(device)))
        if ranks:
            self.strength = self.strengths[int(torch.cat(ranks).mean(0).argmax())]
        self.bank = _bank(data, direction, seed, device)
        return self

    def _of(self, candidates: torch.Tensor, strengths: tuple[Strength, ...]) -> torch.Tensor:
        if self.bank is None:
            raise RuntimeError(f"{type(self).__name__}: fit comes before score.")
        bank = self.bank.float()
        step = max(1, _BLOCK // max(1, len(bank)))
        return torch.cat([self.penalties(block.float() @ bank.T, strengths) for block in candidates.split(step)])

    @torch.no_grad()
    def project(self, candidates: torch.Tensor) -> torch.Tensor:
        """Return each candidate's penalty, (m, d) of any float -> (m, 1) float32."""
        return self._of(candidates, (self.strength,))

    @torch.no_grad()
    def score(self, batch: ListBatch) -> torch.Tensor:
        """Return ``cosine(q, c) - penalty(c)``, (B, L) float32.

        Raises
        ------
        RuntimeError
            If it was not fitted.
        """
        known = batch.projected
        if known is None:
            known = self.project(batch.candidates.flatten(0, 1)).unflatten(0, batch.mask.shape)
        return torch.einsum("bd,bld->bl", batch.query, batch.candidates) - known[..., 0]

    @property
    def config(self) -> dict[str, Any]:
        """The strength."""
        return {"strength": list(self.strength)}

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """The bank."""
        return {} if self.bank is None else {"bank": self.bank}

    def load(self, config: dict[str, Any], state: dict[str, torch.Tensor]) -> Self:
        """Take over strength and bank; see `Scorer.load`."""
        self.strength, self.bank = tuple(config["strength"]), state["bank"]
        return self

    def to(self, device: torch.device) -> Self:
        """Move the bank."""
        if self.bank is not None:
            self.bank = self.bank.to(device)
        return self


def _bank(data: EmbeddingSet, direction: Direction, seed: int, device: torch.device) -> torch.Tensor:
    return table_of(data.queries(direction), choose_bank(data, direction, seed=seed), device).half()


def _reciprocal_ranks(cosine: torch.Tensor, penalties: torch.Tensor, relevant: torch.Tensor) -> torch.Tensor:
    """Return that of the best relevant candidate, (Q, C), (C, S), (Q, C) -> (Q, S); ties count against it."""
    has = relevant.any(1)
    cosine, relevant, found = cosine[has], relevant[has], []
    for penalty in penalties.T:
        scores = cosine - penalty
        best = scores.masked_fill(~relevant, -torch.inf).amax(1, keepdim=True)
        found.append(1.0 / (1 + ((scores >= best) & ~relevant).sum(1)))
    return torch.stack(found, 1)
