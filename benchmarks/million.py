"""An index of a million made-up candidates: built, opened, searched, grown, filtered, shrunk, in both stores.

``python -m benchmarks.million [--candidates N] [--folder DIR]`` prints a table; it takes some minutes and 5 GB of disk.
Each store is used in a process of its own. Memory is what the process has of its own: pages of mapped files, which the
system may take back, don't count.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rank_xmodal.retrieval.exact import top_candidates
from rank_xmodal.scorers import Stack
from rank_xmodal.scorers.csls import CSLS
from rank_xmodal.use import index_folder
from rank_xmodal.use.index import Index
from rank_xmodal.use.prepared import Prepared, prepare
from rank_xmodal.use.store import item_table

WIDTH, GROUPS, BANK, QUERIES, DEPTH = 512, 2_000, 1_000, 100, 50
_STEP = 50_000


def made(count: int, seed: int) -> np.ndarray:
    """Return embeddings (count, WIDTH) in groups, as those of real images lie: (float16, length 1)."""
    centres = np.random.default_rng(7).normal(size=(GROUPS, WIDTH)).astype(np.float32)
    rng = np.random.default_rng(seed)
    rows = centres[rng.integers(0, GROUPS, count)] + 0.9 * rng.normal(size=(count, WIDTH)).astype(np.float32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def corpus(folder: Path, count: int) -> np.ndarray:
    """Return the candidates (count, WIDTH), made once and mapped."""
    rows = np.lib.format.open_memmap(folder / "corpus.npy", "w+", np.float16, (count, WIDTH))
    for start in range(0, count, _STEP):
        rows[start : start + _STEP] = made(min(_STEP, count - start), start)
    return rows


def parts(stack: Stack, candidates: np.ndarray) -> Iterator[tuple[Prepared, Any]]:
    """Yield the candidates, prepared, and their items: an id, and a year to filter by."""
    for start in range(0, len(candidates), _STEP):
        rows = range(start, min(start + _STEP, len(candidates)))
        items = item_table([f"photo-{row:08d}.jpg" for row in rows], {"year": [2000 + row % 20 for row in rows]})
        yield prepare(stack, None, np.array(candidates[start : rows.stop]), None, torch.device("cpu")), items


def own_memory() -> float:
    """Return the megabytes that this process has of its own, without pages of files."""
    told = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(told["RssAnon"].split()[0]) / 1024


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return how long it took, and what it returned."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def middle(work: Callable[[np.ndarray], Any], queries: np.ndarray) -> tuple[float, float]:
    """Return the median and the 99th percentile of a query's time, in milliseconds, after three to warm up."""
    for query in queries[:3]:
        work(query)
    times = [1_000 * seconds(lambda query=query: work(query))[0] for query in queries]  # type: ignore[misc]
    return float(np.median(times)), float(np.percentile(times, 99))


def use(path: Path) -> dict[str, Any]:
    """Open an index and use it; return what it took."""
    before = own_memory()
    opening, index = seconds(lambda: Index.load(path))
    queries, facts = made(QUERIES, 10**9), {"open, s": opening}
    facts["a search, ms"], facts["99th percentile, ms"] = middle(lambda query: index.search(query), queries)
    facts["its own memory, MB"] = own_memory() - before
    facts["100 queries at once, ms each"] = 10 * seconds(lambda: index.search(queries))[0]
    filtered = lambda query: index.search(query, where={"year": 2003})  # noqa: E731
    facts["filtered to a twentieth, ms"], _ = middle(filtered, queries[:20])
    facts["1,000 added, s"], _ = seconds(
        lambda: index.add(made(1_000, 5), [f"new-{row}" for row in range(1_000)], metadata={"year": [2030] * 1_000})
    )
    facts["1,000 removed, s"], _ = seconds(lambda: index.remove([f"photo-{row:08d}.jpg" for row in range(1_000)]))
    facts["a search after that, ms"], _ = middle(lambda query: index.search(query), queries[:20])
    facts["candidates"] = len(index)
    facts["disk, MB"] = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 2**20
    return facts


def recall(path: Path, candidates: np.ndarray) -> float:
    """Return which share of the exact top 50 the first stage finds, for queries that no choice has seen."""
    index, queries = Index.load(path), made(QUERIES, 10**9)
    rows, _ = top_candidates(queries, candidates, DEPTH)
    found = np.concatenate([part.rows for part in index.store.find(queries, DEPTH, None, 64)])
    return float(np.mean([len(np.intersect1d(a, b)) / DEPTH for a, b in zip(rows, found, strict=True)]))


def main() -> None:
    """Build both indexes, use each in a process of its own, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--use", type=Path, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.use:
        print(json.dumps(use(told.use)))
        return
    with tempfile.TemporaryDirectory(dir=told.folder) as folder:
        tables, candidates = {}, corpus(Path(folder), told.candidates)
        for store in ("exact", "lance"):
            path, stack = Path(folder) / store, Stack(CSLS(), made(BANK, 3))
            building, _ = seconds(
                lambda path=path, store=store, stack=stack: index_folder.write(  # type: ignore[misc]
                    path, store, stack, {"direction": "t2i"}, None, parts(stack, candidates)
                )
            )
            found = recall(path, candidates)
            command = [sys.executable, "-m", "benchmarks.million", "--use", path]
            done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
            tables[store] = {"build, s": building, "recall of the exact top 50": found, **json.loads(done.stdout)}
    print(f"{told.candidates:,} candidates of {WIDTH} numbers, CSLS, {torch.get_num_threads()} threads\n")
    print("| | exact | lance |\n|---|---:|---:|")
    for name in tables["exact"]:
        print(f"| {name} | " + " | ".join(f"{tables[store][name]:,.3f}" for store in tables) + " |")


if __name__ == "__main__":
    main()
