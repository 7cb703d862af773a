"""Peak memory of mining 145,000 x 29,000 both ways and of one epoch of training on the lists."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.corpus import embedding_set
from benchmarks.measure import Row, process, row
from data_prep.mining.miner import mine
from rank_xmodal import scorers
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.scorers.stack import TrainingPart, fit_stack

IMAGES, CAPTIONS, LENGTH, DIM = 29_000, 5, 51, 512
MOST = 1_500.0  # MB


def rows() -> Iterator[Row]:
    """Compare with the size of the feature matrix that the paper's recipe stores, in float32."""
    stored = IMAGES * CAPTIONS * LENGTH * 2 * DIM * 4 / 1e6
    with tempfile.TemporaryDirectory() as name:
        embedding_set(IMAGES, captions=CAPTIONS).write(Path(name) / "set")
        _, peak = process([sys.executable, "-m", "benchmarks.memory", Path(name) / "set"])
    work = f"peak memory of mining {IMAGES * CAPTIONS:,} x {IMAGES:,} both ways and one epoch"
    yield row(work, "the stored feature matrix", [(peak, stored)], stored / MOST, unit="MB")


def main(path: Path) -> None:
    """Mine both ways, then train for an epoch."""
    data = EmbeddingSet.open(path)
    mine(data, "i2t", "train", negatives=LENGTH - 1, pool="all", protocol="clean", seed=0)
    lists = mine(data, "t2i", "train", negatives=LENGTH - 1, pool="all", protocol="clean", seed=0)
    scorer = scorers.get("context_aware", features="embeddings", loss="listnet", epochs=1, device="cpu")
    fit_stack(scorer, data, "t2i", parts=[TrainingPart(lists, data)], device=torch.device("cpu"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
