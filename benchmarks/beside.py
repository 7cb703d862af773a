"""A training beside another one, and alone: threads that soon sleep at a barrier against threads that spin.

Ours is the command as it is; the peer is the same command with OMP_WAIT_POLICY=active, as torch has it by itself.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.corpus import embedding_set
from benchmarks.measure import Row, process, row

LISTS, EPOCHS, REPEATS = 1_000, 3, 3
_SPINNING = {"OMP_WAIT_POLICY": "active"}
_BUSY = """
import torch
x = torch.randn(512, 512)
while True:
    x @ x
"""


def rows() -> Iterator[Row]:
    """Compare a training over embeddings, three epochs of 1,000 lists, process start included."""
    data = embedding_set(LISTS, captions=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data.write(folder / "set")
        command: list[str | Path] = [sys.executable, "-m", "experiments.cli.main", "train", "--data", folder / "set"]
        command += ["--direction", "t2i", "--features", "embeddings", "--no-tracking", "--overwrite"]
        command += ["--set", f"epochs={EPOCHS}", "--set", "device=cpu", "--set", "refit=false"]
        for where, busy in (("alone", False), ("beside a busy process of as many threads", True)):
            pairs = []
            for repeat in range(REPEATS):
                taken = {}
                for who in ("ours", "spinning") if repeat % 2 == 0 else ("spinning", "ours"):
                    out: list[str | Path] = ["--out", folder / f"{who}-{repeat}-{busy}"]
                    with _neighbour(busy):
                        taken[who], _ = process([*command, *out], **({} if who == "ours" else _SPINNING))
                pairs.append((taken["ours"], taken["spinning"]))
            # Alone it may cost a little, beside other work it must never lose.
            yield row(f"a training {where}", "threads that spin", pairs, 1.0 if busy else 0.9)


@contextmanager
def _neighbour(busy: bool) -> Iterator[None]:
    if not busy:
        yield
        return
    other = subprocess.Popen([sys.executable, "-c", _BUSY])
    try:
        yield
    finally:
        other.kill()
        other.wait()
