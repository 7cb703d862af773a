"""A planted set whose classes no line finds."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.scorers.projections.class_validation import mean_average_precision
from rank_xmodal.scorers.projections.pairs import TrainingPairs

SPLITS = ["train"] * 300 + ["val"] * 60 + ["test"] * 120


def scattered(classes=9, noise=0.15, names=None, seed=0):
    """Return 480 pairs of images 5 and texts 3 wide around a centre of each class, more centres than dimensions."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, classes, len(SPLITS))
    sides = []
    for width in (5, 3):
        centres = rng.normal(size=(classes, width))
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        table = centres[kind] + noise * rng.normal(size=(len(SPLITS), width))
        sides.append((4 + 3 * table).astype(np.float32))  # neither centred nor of unit scale
    labels = [f"c{k}" if names is None else names[k] for k in kind]
    rows = range(len(SPLITS))
    return EmbeddingSet(
        *sides,
        pd.DataFrame({"image_id": [f"i{k}" for k in rows], "path": "", "split": SPLITS, "labels": labels}),
        pd.DataFrame({"text_id": [f"t{k}" for k in rows], "text": "a", "split": SPLITS, "labels": labels}),
        pd.DataFrame({"image": rows, "text": rows, "grade": 1}),
        {"name": "scattered", "fingerprint": f"scattered {classes} {seed}"},
    )


def without(data, *columns, split=None):
    """Return the set less columns of both tables, or with the rows of a split in none."""
    tables = (table.drop(columns=list(columns)) for table in (data.images, data.texts))
    tables = (table.assign(split=table["split"].replace({split: "other"})) for table in tables)
    images, texts = tables
    return replace(data, images=images, texts=texts)


def class_map(scorer, data, split="test"):
    """Return MAP by classes over the whole gallery of a split, the mean of both directions."""
    asked, offered = (data.query_rows(scorer.direction, split), data.candidate_rows(scorer.direction, split))
    found = torch.from_numpy(
        scorer.map_queries(data.queries(scorer.direction)[asked])
        @ scorer.map_candidates(data.candidates(scorer.direction)[offered]).T
    )
    labels = data.images["labels"].to_numpy()
    same = torch.from_numpy(labels[asked][:, None] == labels[offered][None])
    ways = (mean_average_precision(found, same), mean_average_precision(found.T, same.T))
    return float(sum(way.mean() for way in ways) / 2)


@pytest.fixture(scope="session")
def classed():
    """The planted set as `data`, its training pairs as `pairs`, and the functions above."""
    data = scattered()
    return SimpleNamespace(
        data=data, pairs=TrainingPairs.gather(data), scattered=scattered, without=without, class_map=class_map
    )
