"""What the trained baselines share: training pairs, a cosine in a common space, the choice of the epoch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import nn

from rank_xmodal import metrics
from rank_xmodal.embedding_set import Direction, EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.ranker import ListBatch

if TYPE_CHECKING:
    from rank_xmodal.evaluation import FirstStage

Maps = tuple[nn.Module, nn.Module]  # of images and of texts, (..., d) -> (..., k)
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
BLOCK = 8192  # rows at a time where a whole table in float64 would take gigabytes


@dataclass
class TrainingPairs:
    """Every relevant image and text of the split train, one sample a pair; grades don't count.

    Attributes
    ----------
    images, texts : Tensor (n, d) and (m, d), float32, each row once
    image, text : ndarray (P,), int64
        The pairs, as rows of the two tables.
    relevant : csr_matrix (m, n), bool
    """

    images: torch.Tensor
    texts: torch.Tensor
    image: np.ndarray
    text: np.ndarray
    relevant: sp.csr_matrix

    @classmethod
    def gather(cls, data: EmbeddingSet, device: torch.device | str = "cpu") -> TrainingPairs:
        """Take the pairs whose image and text are both in train, ordered by text and image.

        Raises
        ------
        UserError
            If there are none.
        """
        train_images = (data.images["split"] == "train").to_numpy()
        train_texts = (data.texts["split"] == "train").to_numpy()
        pairs = data.relevance_matrix("t2i").tocoo()
        kept = train_texts[pairs.row] & train_images[pairs.col] & (pairs.data > 0)
        if not kept.any():
            raise UserError(
                f"{data.root or data.name}: no caption of the split train belongs to an image of it. "
                "Trained baselines need such pairs; check the split column."
            )
        image_rows, image = np.unique(pairs.col[kept], return_inverse=True)
        text_rows, text = np.unique(pairs.row[kept], return_inverse=True)
        order = np.lexsort((image, text))
        image, text = image[order].astype(np.int64), text[order].astype(np.int64)
        shape = (len(text_rows), len(image_rows))
        return cls(
            images=_table(data.image_emb, image_rows, device),
            texts=_table(data.text_emb, text_rows, device),
            image=image,
            text=text,
            relevant=sp.csr_matrix((np.ones(len(image), dtype=bool), (text, image)), shape=shape),
        )

    def __len__(self) -> int:
        return len(self.image)

    def batches(self, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield the pairs in random order, in batches of about `size` that differ by one pair at most."""
        yield from np.array_split(rng.permutation(len(self)), max(1, round(len(self) / size)))

    def embeddings(self, index: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the images and the texts of the pairs `index` (B,), (B, d) each."""
        device = self.images.device
        image, text = (torch.from_numpy(rows[index]).to(device) for rows in (self.image, self.text))
        return self.images[image], self.texts[text]

    def match(self, index: np.ndarray) -> torch.Tensor:
        """Return (B, B) bool: image of pair i is relevant to text of pair j, in the same pair or by another."""
        found = self.relevant[self.text[index]][:, self.image[index]].toarray()
        return torch.from_numpy(np.ascontiguousarray(found.T)).to(self.images.device)


def _table(emb: np.ndarray, rows: np.ndarray, device: torch.device | str) -> torch.Tensor:
    return torch.from_numpy(np.asarray(emb[rows], dtype=np.float32)).to(device)


@torch.no_grad()
def apply(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Map (n, d) to (n, k) block by block, without gradients."""
    return torch.cat([module(block) for block in x.split(BLOCK)])


def common_cosine(query: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Return the cosines of (B, k) to (B, L, k), (B, L) float32; 0 where a vector is zero."""
    query, candidates = F.normalize(query, dim=-1), F.normalize(candidates, dim=-1)
    return torch.einsum("bk,blk->bl", query, candidates).float()


class Centred(nn.Module):
    """``(x - mean) weight``: as one affine map its two large parts would cancel in float32."""

    mean: torch.Tensor
    weight: torch.Tensor

    def __init__(self, mean: torch.Tensor, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("weight", weight.float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., d) to (..., k)."""
        return (x - self.mean) @ self.weight


class Projected:
    """The `score` of a baseline that maps both sides into a common space.

    Attributes
    ----------
    maps : (nn.Module, nn.Module) or None
        Of images and of texts; None before `fit`.
    direction : "t2i" or "i2t"
        As given to `fit`.
    """

    maps: Maps | None = None
    direction: Direction = "t2i"

    @torch.no_grad()
    def score(self, batch: ListBatch) -> torch.Tensor:
        """Return ``cosine(f(q), g(c))``, (B, L) float32, on the batch's device.

        Raises
        ------
        RuntimeError
            If it was not fitted.
        """
        if self.maps is None:
            raise RuntimeError(f"{type(self).__name__}: fit comes before score.")
        image, text = (module.to(batch.query.device) for module in self.maps)
        query, candidate = (text, image) if self.direction == "t2i" else (image, text)
        return common_cosine(query(batch.query), candidate(batch.candidates))


class Validation:
    """MRR of maps on the lists of a split. A row is mapped once, in however many lists it stands.

    Raises
    ------
    ValueError
        If the lists are of another direction, of another embedding set, or of the split test, by which nothing may be
        chosen.
    """

    def __init__(
        self, data: EmbeddingSet, direction: Direction, stage: FirstStage, device: torch.device | str = "cpu"
    ) -> None:
        lists = stage.lists
        if lists.direction != direction:
            raise ValueError(
                f"the validation lists are of {lists.direction}, the baseline is fitted for {direction}: "
                f"pass first_stage(data, {direction!r}, 'val')"
            )
        found = str(lists.info.get("fingerprint"))
        if found != data.fingerprint:
            raise ValueError(
                f"the validation lists are of the embedding set {found!r}, the baseline is fitted on "
                f"{data.fingerprint!r}: pass lists of the same set"
            )
        if lists.info.get("split") == "test":
            raise ValueError("the validation lists are of the split 'test', by which nothing may be chosen: pass 'val'")
        self.direction = direction
        rows, place = np.unique(np.maximum(lists.candidates, 0), return_inverse=True)
        self.queries = _table(data.queries(direction), lists.query, device)
        self.candidates = _table(data.candidates(direction), rows, device)
        self.place = torch.from_numpy(place.reshape(lists.candidates.shape)).to(device)
        self.labels = torch.from_numpy(lists.labels)
        self.n_relevant = stage.n_relevant

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


def undrawn_linear(inward: int, outward: int) -> nn.Linear:
    """Return a linear layer whose weights are still to be set; torch's own would draw from the global generator."""
    return nn.utils.skip_init(nn.Linear, inward, outward)  # type: ignore[return-value]


def identity_maps(dim: int, device: torch.device | str) -> Maps:
    """Return two affine maps (d -> d) that change nothing yet.

    CLIP's two sides share a space already. From a random start a small training set would first have to find back
    what CLIP knows.
    """
    maps = undrawn_linear(dim, dim), undrawn_linear(dim, dim)
    for layer in maps:
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
        layer.to(device)
    return maps


def unchanged(maps: Maps) -> Maps:
    """Return a copy of the maps: what `train` hands out when nothing is built on top of them."""
    image, text = copy.deepcopy(maps)
    return image, text


def train(
    maps: Maps,
    pairs: TrainingPairs,
    loss: Loss,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
    drop_after: int | None = None,
    weight_decay: float = 0.0,
    finish: Callable[[Maps], Maps] = unchanged,
    validation: Validation | None = None,
) -> tuple[Maps, int]:
    """Train two maps with Adam on batches of pairs.

    Parameters
    ----------
    maps : of images and of texts; changed in place
    loss : (images (B, k), texts (B, k), match (B, B)) -> scalar
    drop_after : int or None
        The epoch after which the learning rate is a tenth.
    finish : maps -> maps that no longer change
        What is validated and returned.
    validation : Validation or None
        Chooses the epoch by MRR, the start among them (0); of equals the first.

    Returns
    -------
    (maps, int)
        Those of the best epoch, or without validation of the last, and its number.

    Raises
    ------
    UserError
        If the loss is NaN or infinite.
    """
    image, text = maps
    optimiser = torch.optim.Adam([*image.parameters(), *text.parameters()], lr=lr, weight_decay=weight_decay)
    rng = np.random.default_rng(seed)
    best, best_epoch, best_mrr = (finish(maps), 0, -1.0) if validation else (maps, epochs, -1.0)
    if validation:
        best_mrr = validation.mrr(best)
    for epoch in range(1, epochs + 1):
        if drop_after is not None and epoch == drop_after + 1:
            for group in optimiser.param_groups:
                group["lr"] = lr / 10
        for index in pairs.batches(batch_size, rng):
            images, texts = pairs.embeddings(index)
            value = loss(image(images), text(texts), pairs.match(index))
            if not math.isfinite(value.item()):
                raise UserError(f"the loss is {value.item()} in epoch {epoch}. Lower lr={lr}.")
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            optimiser.step()
        if validation:
            current = finish(maps)
            mrr = validation.mrr(current)
            if mrr > best_mrr:
                best, best_epoch, best_mrr = current, epoch, mrr
    if not validation:
        best = finish(maps)
    for module in best:
        module.requires_grad_(False)
    return best, best_epoch
