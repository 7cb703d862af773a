"""Embeddings to a trained ranker: 1,000 lists, 3 epochs, everything included, each side a process of its own."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.corpus import embedding_set
from benchmarks.measure import Row, process, row

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
            for who in ("our_main", "allrank_main") if repeat % 2 == 0 else ("allrank_main", "our_main"):
                command: list[str | Path] = [
                    sys.executable,
                    "-m",
                    f"benchmarks.{who}",
                    folder / "set",
                    folder / who,
                    str(EPOCHS),
                ]
                taken[who] = process(command)
                shutil.rmtree(folder / who)
            measured.append((taken["our_main"], taken["allrank_main"]))
        torch_alone = min(process([sys.executable, "-c", "import torch"])[1] for _ in range(3))
    work = f"embeddings to a trained ranker, {LISTS:,} lists, {EPOCHS} epochs"
    peer = "allRank's main program"
    yield row(work, peer, [(ours[0], theirs[0]) for ours, theirs in measured], 20.0)
    yield row(f"{work}: peak memory", peer, [(ours[1], theirs[1]) for ours, theirs in measured], 10.0, unit="MB")
    beyond = [(ours[1] - torch_alone, theirs[1] - torch_alone) for ours, theirs in measured]
    yield row(f"{work}: peak memory beyond importing torch ({torch_alone:.0f} MB)", peer, beyond, None, unit="MB")
