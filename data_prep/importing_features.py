"""Embedding sets of labelled features of two kinds, whatever files they came in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.datasets.corpus import image_table, relevance_table, text_table
from data_prep.datasets.labelled import tell_left_out
from data_prep.datasets.splits import random_splits
from data_prep.importing import meta_of, written
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError


@dataclass(frozen=True)
class Part:
    """Items whose row i belongs together.

    Attributes
    ----------
    images : (n, d_i) float32
    texts : (n, d_t) float32
    labels : list of str, n
        The class of an item, several as "a|b", or "".
    """

    images: np.ndarray
    texts: np.ndarray
    labels: Sequence[str]


def check_share(val: float) -> None:
    """Check a share of train that becomes val.

    Raises
    ------
    UserError
        If it is none.
    """
    if not 0 <= val < 1:
        raise UserError(f"val={val:g}: must be a share of train, from 0 to below 1.")


def write_features(
    parts: Sequence[Part],
    out: Path,
    name: str | None,
    dataset: str,
    where: str,
    *,
    val: float = 0.0,
    seed: int = 0,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> EmbeddingSet:
    """Write an embedding set that is not aligned from train and test, or from one part that is dealt out 80/10/10.

    An item without a class, or whose text is all zeros, as a bag of words without words is, is left out and counted.

    Raises
    ------
    UserError
        If a part has no item left; `where` begins the message.
    """
    kept: list[Part] = []
    reasons = {"without a class": 0, "without words": 0}
    for part, split in zip(parts, ("train", "test") if len(parts) > 1 else ("",), strict=True):
        classed = np.array([label != "" for label in part.labels], dtype=bool)
        worded = part.texts.any(axis=1)
        reasons["without a class"] += int((~classed).sum())
        reasons["without words"] += int((classed & ~worded).sum())
        rows = np.flatnonzero(classed & worded)
        if not len(rows):
            raise UserError(
                f"{where}: no item{f' of {split}' if split else ''} has a class and words. Bring the files again."
            )
        whole = len(rows) == len(part.labels)
        kept.append(
            part if whole else Part(part.images[rows], part.texts[rows], [part.labels[row] for row in rows.tolist()])
        )
    tell_left_out(say, where, sum(len(part.labels) for part in parts), reasons)
    splits = _splits([len(part.labels) for part in kept], val, seed, where)
    labels = [label for part in kept for label in part.labels]
    count = range(len(labels))
    made = EmbeddingSet(
        np.concatenate([part.images for part in kept]),
        np.concatenate([part.texts for part in kept]),
        image_table([str(row) for row in count], [""] * len(count), splits, labels),
        text_table([str(row) for row in count], [f"text {row}" for row in count], splits, labels),
        relevance_table(list(count)),
        {**meta_of(out, name, dataset), "aligned": False},
    )
    return written(made, out, overwrite, say)


def _splits(sizes: list[int], val: float, seed: int, where: str) -> list[str]:
    if len(sizes) == 1:
        rows = [str(row) for row in range(sizes[0])]
        dealt = random_splits(rows, seed, where)
        return [dealt[row] for row in rows]
    train = np.full(sizes[0], "train", dtype=object)
    if round(val * sizes[0]) >= sizes[0]:
        raise UserError(f"{where}: val={val:g} of {sizes[0]} training items leaves none to learn from. Take less.")
    train[np.random.default_rng(seed).permutation(sizes[0])[: round(val * sizes[0])]] = "val"
    return [*train, *["test"] * sizes[1]]
