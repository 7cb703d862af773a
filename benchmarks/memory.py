"""Peak memory: mining and training at the size of Flickr30k; importing, and both rankers, at a million images."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.corpus import embedding_set
from benchmarks.measure import Row, peaks, process, row
from benchmarks.scale import DIM, inputs
from data_prep.importing import import_embeddings
from data_prep.mining.miner import mine
from rank_xmodal import scorers
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.scorers.stack import TrainingPart, fit_stack

IMAGES, CAPTIONS, LENGTH = 29_000, 5, 51
MANY, LISTS = 1_000_000, 20_000
MOST = 1_500.0  # MB


def rows() -> Iterator[Row]:
    """Compare with the size of the feature matrix that the paper's recipe stores, and of the files, in float32."""
    stored = IMAGES * CAPTIONS * LENGTH * 2 * DIM * 4 / 1e6
    with tempfile.TemporaryDirectory() as name:
        embedding_set(IMAGES, captions=CAPTIONS).write(Path(name) / "set")
        _, peak = process(_command("whole", Path(name)))
    work = f"peak memory of mining {IMAGES * CAPTIONS:,} x {IMAGES:,} both ways and one epoch"
    yield row(work, "the stored feature matrix", [(peak, stored)], stored / MOST, unit="MB")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs(folder, MANY)
        files = 2 * MANY * DIM * 4 / 1e6
        own = peaks(_command("import", folder))["RssAnon"]
        work = f"importing {MANY:,} images and captions: memory of its own, mapped files apart"
        yield row(work, "the embeddings in float32", [(own, files)], 1 / 1.5, unit="MB")
        fewer(folder)
        for features, called in (("full", "the default ranker"), ("embeddings", "the ranker over embeddings")):
            own = peaks(_training(folder, features))["RssAnon"]
            work = f"training {called} on {LISTS:,} lists of {MANY:,} images: the same"
            yield row(work, "the embeddings in float32", [(own, files)], files / MOST, unit="MB")


def _command(what: str, folder: Path) -> list[str | Path]:
    return [sys.executable, "-m", "benchmarks.memory", what, folder]


def _training(folder: Path, features: str) -> list[str | Path]:
    command: list[str | Path] = [sys.executable, "-m", "experiments.cli.main", "train", "--data", folder / "fewer"]
    command += ["--out", folder / features, "--direction", "t2i", "--loss", "listnet", "--features", features]
    return [*command, "--no-tracking", "--set", "epochs=1", "--set", "device=cpu"]


def whole(folder: Path) -> None:
    """Mine both ways, then train for an epoch."""
    data = EmbeddingSet.open(folder / "set")
    mine(data, "i2t", "train", negatives=LENGTH - 1, pool="all", protocol="clean", seed=0)
    lists = mine(data, "t2i", "train", negatives=LENGTH - 1, pool="all", protocol="clean", seed=0)
    scorer = scorers.get("context_aware", features="embeddings", loss="listnet", epochs=1, device="cpu")
    fit_stack(scorer, data, "t2i", parts=[TrainingPart(lists, data)], device=torch.device("cpu"))


def import_many(folder: Path) -> None:
    """Import both arrays and the table of captions."""
    import_embeddings(folder / "images.npy", folder / "texts.npy", folder / "captions.csv", folder / "set")


def fewer(folder: Path) -> None:
    """Write the set with 20,000 of its captions, and all of its images, to `fewer`."""
    data = EmbeddingSet.open(folder / "set")
    kept = data.relevance[data.relevance["text"] < LISTS].reset_index(drop=True)
    replace(data, text_emb=data.text_emb[:LISTS], texts=data.texts[:LISTS], relevance=kept).write(folder / "fewer")


WORK: dict[str, Callable[[Path], None]] = {"whole": whole, "import": import_many}

if __name__ == "__main__":
    WORK[sys.argv[1]](Path(sys.argv[2]))
