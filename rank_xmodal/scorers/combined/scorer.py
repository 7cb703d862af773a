"""Cross-fitted scores, combined list-wise: a linear ranker over what each of the maps says."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from typing_extensions import Self

from rank_xmodal import losses
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.list_tensors import ListTensors
from rank_xmodal.lists.needs import Needs
from rank_xmodal.lists.scoring import HeldOut
from rank_xmodal.retrieval.query_bank import query_groups
from rank_xmodal.scorers.base import Scorer
from rank_xmodal.scorers.combined.evidence import FEATURES, Evidence
from rank_xmodal.scorers.combined.solve import Lists, choose, solve, temperature
from rank_xmodal.scorers.settings import ListSettings
from rank_xmodal.training.watch import Watch

# The base: CSLS, the convex maps and VSE++ with CSLS on top, each over its mean deviation in a list.
_BASE = {"cosine, CSLS": 1.0, "convex, strong, CSLS": 0.5, "convex, weak, CSLS": 0.5, "vsepp, CSLS": 1.0}
# What brings a loss to the size of ListNet's, so that one penalty means about the same for all.
_WEIGHT = {"lambdarank": 3.0, "ranknet": 50.0, "neuralndcg": 100.0}
_MOST, _SHORT = 2_000, 20  # lists and places that the slow losses are solved on
_SLOW = ("neuralndcg", "approxndcg", "smoothap", "lambdaloss")


class CombinedSettings(ListSettings):
    """The loss, the lists that it is solved on, and the inner folds."""

    folds: int | Literal["auto"] = Field(
        "auto", description="inner folds that the scores are fitted on; auto: 5, from 1,000 training images on 2"
    )


class Combined(Scorer):
    """``score = a base + w . z``, z the features of `evidence`, centred in the list, over their mean deviation.

    The training lists are held-out queries against held-out candidates, scored by maps that have met neither; in use
    the maps are those of all training pairs. The base is the mean of three scores with CSLS on top; the weights start
    at 0 and are penalised, so that without evidence it ranks as its base.

    References
    ----------
    Stacking: Wolpert: Stacked Generalization, Neural Networks 1992; its parts: see the scorers of their names.
    """

    name = "combined"
    label = "combined scores"
    paper = "Wolpert: Stacked Generalization, Neural Networks 1992, over the scores of csls, gaussian, convex and vsepp"
    Settings: ClassVar[type[CombinedSettings]] = CombinedSettings
    settings: CombinedSettings

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self.evidence: Evidence | None = None
        self.weight = self.base_weight = torch.zeros(0)
        self.penalty = float("inf")

    @property
    def needs(self) -> Needs:
        """Lists and embeddings."""
        return Needs(candidates=True, lists=True)

    @property
    def out_of_fold(self) -> int | Literal["auto"] | None:
        """The inner folds that its training lists are scored by."""
        return self.settings.folds

    def held_out_features(
        self, knows: EmbeddingSet, direction: Direction, lists: ListTensors, seed: int
    ) -> torch.Tensor:
        """Return the features of training lists, (Q, L, 21), by scores fitted on what `knows` has as train."""
        evidence = Evidence.fit(knows, direction, seed, lists.rows.device)
        return _features(evidence, lists)

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
        """Solve for the weights on the held-out lists, and fit the scores on all training pairs; see `Scorer.fit`.

        A validation chooses nothing: the inner folds do.

        Raises
        ------
        UserError
            If there are no lists with features, or none holds both a relevant and another candidate.
        """
        if lists is None or lists.features is None or lists.fold is None:
            raise UserError(
                f"scorer={self.name} is trained on lists of inner folds. Train it with `rank-xmodal train`."
            )
        taught = lists.instructive.cpu().numpy()
        if not taught.any():
            raise UserError(
                f"{data.root or data.name}: no {direction} training list holds both a relevant and a non-relevant "
                "candidate. Give the train split more items."
            )
        labels = lists.labels.cpu()
        z, deviation = _centred(lists.features.cpu(), labels >= 0)
        group = query_groups(data, direction)[lists.query_row.cpu().numpy()]
        base_of = torch.tensor([_BASE.get(name, 0.0) for name in FEATURES]) / deviation
        held = Lists(z / deviation, z @ base_of, labels, lists.fold.cpu().numpy(), group).of(taught)
        listnet = losses.get("listnet")
        scale = temperature(held, listnet)
        held = Lists(held.z, held.base * scale, held.labels, held.fold, held.group)
        self.penalty, w = self._solved(held)
        self.base_weight = base_of * scale
        self.weight = self.base_weight + torch.from_numpy(w).float() / deviation
        self.evidence = Evidence.fit(data, direction, seed, lists.rows.device)
        return self

    def _solved(self, held: Lists) -> tuple[float, np.ndarray]:
        """Return the penalty and the weights; other losses than ListNet start from its solution."""
        chosen = self.settings
        zero = np.zeros(held.z.shape[-1])
        loss = losses.get(chosen.loss, **chosen.loss_params)
        if chosen.loss == "listnet":
            return choose(held, loss, 1.0, lambda lists: zero)
        listnet = losses.get("listnet")
        penalty, _ = choose(held, listnet, 1.0, lambda lists: zero)
        start = partial(_from, listnet, penalty)
        short = _shortened(held) if chosen.loss in _SLOW else held
        return choose(short, loss, _WEIGHT.get(chosen.loss, 1.0), start)

    def project(self, candidates: torch.Tensor) -> torch.Tensor:
        """Return what each candidate alone decides, (m, d) of any float -> (m, 15) float32."""
        return self._fitted().of_candidates(candidates)

    @torch.no_grad()
    def score(self, batch: ListBatch) -> torch.Tensor:
        """Return the scores, (B, L) float32.

        Raises
        ------
        RuntimeError
            If it was not fitted.
        """
        evidence = self._fitted()
        alone = batch.projected
        if alone is None:
            alone = evidence.of_candidates(batch.candidates.flatten(0, 1)).unflatten(0, batch.mask.shape)
        found = evidence.features(batch.query, batch.candidates, alone)
        # Centred in the list, for float32's sake.
        return (found - _centre(found, batch.mask)) @ self.weight.to(found.device)

    def _fitted(self) -> Evidence:
        if self.evidence is None:
            raise RuntimeError(f"{type(self).__name__}: fit comes before score.")
        return self.evidence

    @property
    def config(self) -> dict[str, Any]:
        """The penalty that the inner folds chose; None for the base alone."""
        return {"penalty": self.penalty if np.isfinite(self.penalty) else None, "features": list(FEATURES)}

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """The weights of the features and the maps behind them."""
        return {"weight": self.weight, **({} if self.evidence is None else self.evidence.state())}

    def load(self, config: dict[str, Any], state: dict[str, torch.Tensor]) -> Self:
        """Take over weights and maps; see `Scorer.load`."""
        if config["features"] != list(FEATURES):
            raise ValueError("its features are those of another version")
        self.penalty = float("inf") if config["penalty"] is None else config["penalty"]
        maps = dict(state)
        self.weight = maps.pop("weight")
        self.evidence = Evidence(**maps)
        return self

    def to(self, device: torch.device) -> Self:
        """Move the maps."""
        if self.evidence is not None:
            self.evidence = self.evidence.to(device)
        return self


def _from(loss: Any, penalty: float, lists: Lists) -> np.ndarray:
    return solve(lists, loss, 1.0, penalty, np.zeros(lists.z.shape[-1]))


def _features(evidence: Evidence, lists: ListTensors, size: int = 64) -> torch.Tensor:
    lists, parts = replace(lists, projected=evidence.of_candidates(lists.candidates)), []
    for index in torch.arange(len(lists), device=lists.rows.device).split(size):
        batch, _ = lists.batch(index)
        assert batch.projected is not None
        parts.append(evidence.features(batch.query, batch.candidates, batch.projected))
    return torch.cat(parts)


def _centre(features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean over each list, (B, L, F) and (B, L) -> (B, 1, F); padding doesn't move it."""
    kept = mask[..., None]
    return torch.where(kept, features, 0.0).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1)


def _centred(features: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features less their mean in the list, 0 at padding, and the mean over lists of their deviation (F,)."""
    z = torch.where(mask[..., None], features - _centre(features, mask), 0.0)
    deviation = (z.square().sum(1) / mask.sum(1, keepdim=True).clamp(min=1)).sqrt().mean(0).clamp(min=1e-8)
    return z, deviation


def _shortened(lists: Lists) -> Lists:
    """Return fewer lists, each with its best by the base and all that is relevant."""
    rows = np.linspace(0, len(lists.fold) - 1, min(_MOST, len(lists.fold))).astype(np.int64)
    some = lists.of(rows)
    rank = some.base.masked_fill(some.labels < 0, -torch.inf).masked_fill(some.labels > 0, torch.inf)
    top = rank.topk(min(_SHORT, rank.shape[1]), dim=1).indices
    return Lists(
        some.z.gather(1, top[..., None].expand(-1, -1, some.z.shape[-1])),
        some.base.gather(1, top), some.labels.gather(1, top), some.fold, some.group,
    )  # fmt: skip
