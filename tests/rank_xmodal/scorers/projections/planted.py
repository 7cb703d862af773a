"""Pairs of two widths whose sides know their class: what the closed forms are tested on."""

import numpy as np
import pandas as pd

from rank_xmodal.data.embedding_set import EmbeddingSet

CLASSES = ["art", "sport", "music|art", "war"]


def labelled(n=150, labels=CLASSES, seed=0, scale=1.0, order=None, held=True):
    """Return pairs of images 9 and texts 4 wide that know their class; `order` shuffles the pairs."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 4, n)
    common = np.eye(4)[kind] + 0.4 * rng.normal(size=(n, 4))
    tables = [common @ rng.normal(size=(4, d)) + 0.3 * rng.normal(size=(n, d)) for d in (9, 4)]
    splits = np.array([("val" if held else "train") if k % 5 == 1 else "test" if k % 5 == 2 else "train"
                       for k in range(n)], dtype=object)  # fmt: skip
    names = np.array([labels[k % len(labels)] for k in kind], dtype=object)
    order = np.arange(n) if order is None else order
    image_emb, text_emb = ((scale * table).astype(np.float32)[order] for table in tables)
    frame = {"split": splits[order], "labels": names[order]}
    return EmbeddingSet(
        image_emb,
        text_emb,
        pd.DataFrame({"image_id": [f"i{k}" for k in order], "path": "", **frame}),
        pd.DataFrame({"text_id": [f"t{k}" for k in order], "text": "a", **frame}),
        pd.DataFrame({"image": range(n), "text": range(n), "grade": 1}),
        {"name": "two widths", "fingerprint": "two widths"},
    )


def scores(scorer, data, direction="t2i"):
    return scorer.map_queries(data.queries(direction)) @ scorer.map_candidates(data.candidates(direction)).T
