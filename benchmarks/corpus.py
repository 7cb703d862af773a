"""Embedding sets of any size, drawn and not computed: CLIP's geometry without CLIP."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.files import sha256

_TOPICS = 200
_BLOCK = 8_192  # rows drawn at a time: nothing of the size of the corpus is ever held in float32


def unit_rows(count: int, dim: int, seed: int) -> np.ndarray:
    """Return rows of length 1, (count, dim) float16: a common cone, topics, and noise, as CLIP has them."""
    rng = np.random.default_rng(seed)
    topics = np.random.default_rng(0).standard_normal((_TOPICS, dim), dtype=np.float32)
    rows = np.empty((count, dim), dtype=np.float16)
    for start in range(0, count, _BLOCK):
        size = min(_BLOCK, count - start)
        block = 0.6 * topics[rng.integers(_TOPICS, size=size)] + 0.7
        block += 0.8 * rng.standard_normal((size, dim), dtype=np.float32)
        rows[start : start + size] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return rows


def embedding_set(
    images: int, *, captions: int = 5, dim: int = 512, test: float = 0.0, seed: int = 0, name: str = "drawn"
) -> EmbeddingSet:
    """Return a set in memory: `images` images with `captions` captions each, near to them; a share `test` is test's."""
    image = unit_rows(images, dim, seed)
    owner = np.repeat(np.arange(images, dtype=np.int32), captions)
    rng = np.random.default_rng(seed + 1)
    text = np.empty((len(owner), dim), dtype=np.float16)
    for start in range(0, len(owner), _BLOCK):
        part = owner[start : start + _BLOCK]
        block = image[part].astype(np.float32) + 0.06 * rng.standard_normal((len(part), dim), dtype=np.float32)
        text[start : start + _BLOCK] = block / np.linalg.norm(block, axis=1, keepdims=True)
    split = np.where(np.arange(images) < images * (1 - test), "train", "test")
    return EmbeddingSet(
        image,
        text,
        pd.DataFrame({"image_id": [f"i{k}" for k in range(images)], "path": "", "split": split}),
        pd.DataFrame(
            {
                "text_id": [f"t{k}" for k in range(len(owner))],
                "text": [f"caption {k}" for k in range(len(owner))],
                "split": split[owner],
            }
        ),
        pd.DataFrame({"image": owner, "text": np.arange(len(owner), dtype=np.int32), "grade": np.uint8(1)}),
        {"fingerprint": sha256(f"{images} {captions} {dim} {test} {seed}".encode()), "name": name},
    )
