"""Embeddings to a trained ranker: 1,000 lists, 3 epochs, everything included, each side a process of its own.

Ours is the command that users type: it mines, trains with a validation every epoch, and writes the ranker's folder.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.corpus import embedding_set
from benchmarks.measure import Row, matmul_rate, process, row
from benchmarks.training_step import BATCH, least_work

LISTS, VALIDATION, EPOCHS = 1_000, 100, 3


def rows(repeats: int = 5) -> Iterator[Row]:
    """Compare with allRank's main program, files written for it included."""
    data = embedding_set(LISTS + VALIDATION, captions=1)
    for table in (data.images, data.texts):
        table.loc[LISTS:, "split"] = "val"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data.write(folder / "set")
        measured = []
        for repeat in range(repeats):
            taken = {}
            for who in ("ours", "allrank") if repeat % 2 == 0 else ("allrank", "ours"):
                taken[who] = process(_command(who, folder / "set", folder / who))
                shutil.rmtree(folder / who)
            measured.append((taken["ours"], taken["allrank"]))
        torch_alone = min(process([sys.executable, "-c", "import torch"])[1] for _ in range(3))
    work = f"embeddings to a trained ranker, {LISTS:,} lists, {EPOCHS} epochs"
    peer = "allRank's main program"
    limit = EPOCHS * LISTS / BATCH * least_work() / matmul_rate()  # of the training alone
    yield row(work, peer, [(ours[0], theirs[0]) for ours, theirs in measured], 20.0, limit=limit)
    yield row(f"{work}: peak memory", peer, [(ours[1], theirs[1]) for ours, theirs in measured], 10.0, unit="MB")
    beyond = [(ours[1] - torch_alone, theirs[1] - torch_alone) for ours, theirs in measured]
    yield row(f"{work}: peak memory beyond importing torch ({torch_alone:.0f} MB)", peer, beyond, None, unit="MB")


def _command(who: str, data: Path, out: Path) -> list[str | Path]:
    if who == "allrank":
        return [sys.executable, "-m", "benchmarks.allrank_main", data, out, str(EPOCHS)]
    command: list[str | Path] = [sys.executable, "-m", "experiments.cli.main", "train", "--data", data, "--out", out]
    command += ["--direction", "t2i", "--loss", "listnet", "--features", "concat", "--no-tracking"]
    for setting in ("lists=clean", "pool=200", f"epochs={EPOCHS}", "device=cpu"):
        command += ["--set", setting]
    return command
