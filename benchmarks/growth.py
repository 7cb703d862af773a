"""How time and memory grow with queries, candidates and corpus: curves and their exponents."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.corpus import embedding_set, unit_rows
from benchmarks.measure import process
from data_prep.mining.miner import mine
from rank_xmodal.retrieval.exact import top_candidates
from rank_xmodal.scorers.context_aware.ranker import ALL_BLOCKS, RankerConfig
from rank_xmodal.scorers.context_aware.scorer import ContextAware
from rank_xmodal.scorers.stack import Stack, TrainingPart, fit_stack
from rank_xmodal.use.reranker import Reranker

DIM = 512
CURVES: dict[str, list[int]] = {
    "mining, queries": [10_000, 20_000, 40_000, 80_000],
    "training an epoch, lists": [1_000, 2_000, 4_000, 8_000],
    "training an epoch of 1,000 lists, candidates in a list": [51, 101, 201],
    "searching 500 queries, corpus": [10_000, 100_000, 1_000_000],
}


def measure() -> list[dict[str, Any]]:
    """Return each curve: name, sizes, seconds, megabytes (peak, of the process) and time's exponent."""
    curves = []
    for name, sizes in CURVES.items():
        seconds, megabytes = [], []
        for size in sizes:
            command = [sys.executable, "-m", "benchmarks.growth", name, str(size)]
            said, peak = _child(command)
            seconds.append(said)
            megabytes.append(peak)
        slope = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
        curves.append({"curve": name, "sizes": sizes, "seconds": seconds, "megabytes": megabytes, "exponent": slope})
    return curves


def _child(command: list[str]) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder) / "seconds.json"
        _, peak = process([*command, note])
        return float(json.loads(note.read_text())), peak


def one(name: str, size: int) -> float:
    """Return the seconds of one point; what it works on is made before the clock starts."""
    torch.manual_seed(0)
    if name == "mining, queries":
        queries, candidates = unit_rows(size, DIM, 1), unit_rows(29_000, DIM, 2)
        started = time.perf_counter()
        top_candidates(queries, candidates, 51)
    elif name.startswith("searching"):
        corpus, queries = unit_rows(size, DIM, 1), unit_rows(500, DIM, 2)
        bank = unit_rows(2_000, DIM, 3)
        scorer = ContextAware()
        scorer.network = scorer.build(RankerConfig(dim=DIM)).eval()
        index = Reranker(Stack(scorer, bank), {}, torch.device("cpu")).index(corpus)
        started = time.perf_counter()
        index.search(queries, k=10)
    else:
        lists, length = (1_000, size) if "candidates" in name else (size, 51)
        data = embedding_set(lists, captions=1)
        mined = mine(data, "t2i", "train", negatives=length - 1, pool=2 * length, protocol="clean", seed=0)
        started = time.perf_counter()
        ranker = ContextAware(epochs=1, device="cpu", blocks=ALL_BLOCKS)
        fit_stack(ranker, data, "t2i", parts=[TrainingPart(mined, data)], device=torch.device("cpu"))
    return time.perf_counter() - started


def plot(curves: list[dict[str, Any]], path: Path) -> None:
    """Draw time and memory of each curve, both axes logarithmic, with a line of slope 1 to compare."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(curves), figsize=(4 * len(curves), 6), squeeze=False)
    for column, curve in enumerate(curves):
        sizes = np.array(curve["sizes"], dtype=float)
        first = curve["seconds"][0]
        axes[0][column].plot(sizes, first * sizes / sizes[0], "--", color="0.6", label="proportional")
        axes[0][column].set_title(f"{curve['curve']}\ntime ~ size^{curve['exponent']:.2f}", fontsize=9)
        for axis, values, unit in (
            (axes[0][column], curve["seconds"], "s"),
            (axes[1][column], curve["megabytes"], "MB"),
        ):
            axis.plot(sizes, values, "o-", color="C0")
            for x, y in zip(sizes, values, strict=True):
                text = f"{y:,.0f}" if unit == "MB" else f"{y:.2g}"
                axis.annotate(text, (x, y), textcoords="offset points", xytext=(0, 7), ha="center", fontsize=8)
            axis.set(xscale="log", yscale="log", ylabel=unit, ylim=(min(values) / 2, max(values) * 2.5))
            axis.set_xticks(sizes, [f"{int(s):,}" for s in sizes], fontsize=8)
            axis.minorticks_off()
            axis.margins(x=0.12)
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    Path(sys.argv[3]).write_text(json.dumps(one(sys.argv[1], int(sys.argv[2]))))
