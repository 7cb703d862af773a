"""Training two maps with Adam on batches of pairs; a validation chooses the epoch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from rank_xmodal import metrics
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.retrieval.gallery import RankedGallery
from rank_xmodal.scorers.projections.maps import Maps, apply
from rank_xmodal.scorers.projections.pairs import TrainingPairs, table_of
from rank_xmodal.scorers.settings import ScorerSettings
from rank_xmodal.training.watch import Watch

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Judge = tuple[str, Callable[[Maps], float]]  # the name of a figure, and that figure of maps: higher is better


class PairSettings(ScorerSettings):
    """How maps are trained on pairs, with the defaults of VSE++ (Faghri et al. 2018)."""

    lr: float = Field(2e-4, gt=0, description="Adam's")
    batch_size: int = Field(128, ge=1, description="pairs in a step")
    epochs: int = Field(30, ge=0)
    drop_after: int | None = Field(15, ge=0, description="epoch after which the learning rate is a tenth")
    weight_decay: float = Field(0.0, ge=0, description="Adam's L2 penalty")


def common_cosine(query: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Return the cosines of (B, k) to (B, L, k), (B, L) float32; 0 where a vector is zero."""
    query, candidates = F.normalize(query, dim=-1), F.normalize(candidates, dim=-1)
    return torch.einsum("bk,blk->bl", query, candidates).float()


class Validation:
    """MRR of maps on the lists of a split. A row is mapped once, in however many lists it stands.

    Raises
    ------
    ValueError
        If the lists are of another direction, of another embedding set, or of the split test, by which nothing may be
        chosen.
    """

    def __init__(
        self, data: EmbeddingSet, direction: Direction, gallery: RankedGallery, device: torch.device | str = "cpu"
    ) -> None:
        lists = gallery.lists
        if lists.direction != direction:
            raise ValueError(
                f"the validation lists are of {lists.direction}, the projection is fitted for {direction}: "
                f"pass rank_gallery(data, {direction!r}, 'val')"
            )
        found = str(lists.info.get("fingerprint"))
        if found != data.fingerprint:
            raise ValueError(
                f"the validation lists are of the embedding set {found!r}, the projection is fitted on "
                f"{data.fingerprint!r}: pass lists of the same set"
            )
        if lists.info.get("split") == "test":
            raise ValueError("the validation lists are of the split 'test', by which nothing may be chosen: pass 'val'")
        self.direction = direction
        rows, place = np.unique(np.maximum(lists.candidates, 0), return_inverse=True)
        self.queries = table_of(data.queries(direction), lists.query, device)
        self.candidates = table_of(data.candidates(direction), rows, device)
        self.place = torch.from_numpy(place.reshape(lists.candidates.shape)).to(device)
        self.labels = torch.from_numpy(lists.labels)
        self.n_relevant = gallery.n_relevant

    def mrr(self, maps: Maps) -> float:
        """Return the mean reciprocal rank when the lists are ordered by the cosine of the maps."""
        image, text = maps
        query, candidate = (text, image) if self.direction == "t2i" else (image, text)
        asked, offered = apply(query, self.queries), apply(candidate, self.candidates)
        parts = [
            common_cosine(asked[part], offered[self.place[part]]).cpu()
            for part in torch.arange(len(asked), device=asked.device).split(256)
        ]
        return float(metrics.get("MRR")(torch.cat(parts), self.labels, self.n_relevant).mean())


def unchanged(maps: Maps) -> Maps:
    """Return a copy of the maps: what `train` hands out when nothing is built on top of them."""
    image, text = copy.deepcopy(maps)
    return image, text


def train(
    maps: Maps,
    pairs: TrainingPairs,
    loss: Loss,
    settings: PairSettings,
    *,
    seed: int,
    finish: Callable[[Maps], Maps] = unchanged,
    validation: Validation | None = None,
    watch: Watch,
) -> tuple[Maps, list[dict[str, float]], int]:
    """Train two maps with Adam on batches of pairs, by a loss of what they give alone; see `train_steps`.

    Parameters
    ----------
    maps : of images and of texts; changed in place
    loss : (images (B, k), texts (B, k), match (B, B)) -> scalar
    validation : Validation or None
        Chooses the epoch by MRR.
    """
    image, text = maps

    def step(index: np.ndarray) -> torch.Tensor:
        images, texts = pairs.embeddings(index)
        return loss(image(images), text(texts), pairs.match(index))

    judge = ("val_MRR", validation.mrr) if validation else None
    return train_steps(maps, pairs, step, settings, seed=seed, finish=finish, judge=judge, watch=watch)


def train_steps(
    maps: Maps,
    pairs: TrainingPairs,
    step: Callable[[np.ndarray], torch.Tensor],
    settings: PairSettings,
    *,
    seed: int,
    beside: Sequence[nn.Module] = (),
    finish: Callable[[Maps], Maps] = unchanged,
    judge: Judge | None = None,
    watch: Watch,
) -> tuple[Maps, list[dict[str, float]], int]:
    """Train two maps, and what helps them to learn, with Adam on batches of pairs.

    Parameters
    ----------
    maps : of images and of texts; changed in place
    step : the pairs of a batch (B,), int64 -> the loss, a scalar
    settings : PairSettings
    seed : int
        Of the order of the pairs.
    beside : modules that are trained with the maps and are no part of them
    finish : maps -> maps that no longer change
        What is validated and returned.
    judge : Judge or None
        Chooses the epoch, the start among them (0); of equals the first.
    watch : Watch
        Told of each epoch: epoch, loss and, with a judge, its figure.

    Returns
    -------
    maps
        Those of the best epoch, or without a judge of the last.
    list of dict
        What the watch was told.
    int
        The number of the epoch.

    Raises
    ------
    UserError
        If the loss is NaN or infinite.
    """
    parameters = chain.from_iterable(module.parameters() for module in (*maps, *beside))
    optimiser = torch.optim.Adam(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    rng = np.random.default_rng(seed)
    last = settings.epochs if watch.last_epoch is None else watch.last_epoch
    best, best_epoch, best_figure = (finish(maps), 0, -1.0) if judge else (maps, last, -1.0)
    history: list[dict[str, float]] = []

    def tell(figures: dict[str, float]) -> None:
        history.append(figures)
        watch.on_epoch(figures)

    if judge:
        best_figure = judge[1](best)
        tell({"epoch": 0, judge[0]: best_figure})
    for epoch in range(1, last + 1):
        if settings.drop_after is not None and epoch == settings.drop_after + 1:
            for group in optimiser.param_groups:
                group["lr"] = settings.lr / 10
        total = 0.0
        batches = list(pairs.batches(settings.batch_size, rng))
        for place, index in enumerate(batches):
            value = step(index)
            if not math.isfinite(value.item()):
                raise UserError(f"the loss is {value.item()} in epoch {epoch}. Lower lr={settings.lr:g}.")
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            optimiser.step()
            total += value.item() * len(index)
            watch.on_step(epoch, place + 1, len(batches))
        figures = {"epoch": epoch, "loss": total / len(pairs)}
        if judge:
            current = finish(maps)
            figures[judge[0]] = figure = judge[1](current)
            if figure > best_figure:
                best, best_epoch, best_figure = current, epoch, figure
        tell(figures)
    if not judge:
        best = finish(maps)
    return best, history, best_epoch
