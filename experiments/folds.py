"""Folds of a small set: every image is in the test part once per permutation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rank_xmodal.embedding_set import EmbeddingSet


def fold_of(data: EmbeddingSet, fold: int, folds: int, permutation: int) -> EmbeddingSet:
    """Return the set with one fold of its images, and their captions, as test and the rest as train.

    Splits that the set itself has don't count; there is no validation split. The images left over by the division are
    always train.
    """
    order = np.random.default_rng(permutation).permutation(len(data.images))
    size = len(order) // folds
    images = np.full(len(order), "train", dtype=object)
    images[order[fold * size : (fold + 1) * size]] = "test"
    texts = np.full(len(data.texts), "train", dtype=object)
    texts[data.relevance["text"]] = images[data.relevance["image"]]
    meta = {**data.meta, "fingerprint": f"{data.fingerprint} fold {fold} of {folds}, permutation {permutation}"}
    return replace(data, images=data.images.assign(split=images), texts=data.texts.assign(split=texts), meta=meta)
