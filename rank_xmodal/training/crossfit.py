"""Inner folds of the training split: what was fitted on pairs may score training lists only out of fold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np

from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.groups import groups

FOLDS = 5
LARGE = 1_000  # training images from which on two folds leave enough to fit on
_OUT = "other fold"


def inner_count(data: EmbeddingSet, asked: int | Literal["auto"] | None) -> int:
    """Return how many inner folds there are: as asked, else 5, and of 1,000 training images or more 2 if "auto"."""
    if isinstance(asked, int):
        return asked
    large = int((data.images["split"] == "train").sum()) >= LARGE
    return 2 if asked == "auto" and large else FOLDS


def inner_folds(data: EmbeddingSet, folds: int = FOLDS, seed: int = 0) -> Iterator[tuple[EmbeddingSet, EmbeddingSet]]:
    """Cut the training split into folds that share no pair; what belongs together stays together.

    Parameters
    ----------
    data : EmbeddingSet
    folds : int
        As many at most: each has two groups, and of fewer than four there are none.
    seed : int
        Which groups go into which fold; see `rank_xmodal.data.groups`.

    Yields
    ------
    (rest, held) : EmbeddingSet
        The set with all folds but one as its split train, to fit on, and with that one fold alone, to score. The other
        splits stay.
    """
    found = groups(data)
    group = np.concatenate([found.text, found.image])
    in_train = np.concatenate([(table["split"] == "train").to_numpy() for table in (data.texts, data.images)])
    # Dealt out in random order: folds of the training split differ by one group at most.
    dealt = np.random.default_rng(seed).permutation(np.unique(group[in_train]))
    folds = min(folds, len(dealt) // 2)
    if folds < 2:
        return
    fold_of_group = np.full(group.max(initial=0) + 1, -1)
    fold_of_group[dealt] = np.arange(len(dealt)) % folds
    fold = fold_of_group[group]
    for number in range(folds):
        yield (
            _cut(data, fold != number, f"less inner fold {number} of {folds}, seed {seed}"),
            _cut(data, fold == number, f"inner fold {number} of {folds}, seed {seed}"),
        )


def _cut(data: EmbeddingSet, kept: np.ndarray, what: str) -> EmbeddingSet:
    """Return the set with the training items that aren't kept, (texts + images,) bool, in no split."""
    texts, images = (
        table.assign(split=table["split"].where((table["split"] != "train") | part, _OUT))
        for table, part in ((data.texts, kept[: len(data.texts)]), (data.images, kept[len(data.texts) :]))
    )
    meta = {**data.meta, "fingerprint": f"{data.fingerprint} {what}"}
    return replace(data, images=images, texts=texts, meta=meta, root=None, cut_of=data.whole)
