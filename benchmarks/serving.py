"""Load on a server: clients on this machine, each with one search after another: ``python -m benchmarks.serving``.

The corpus is drawn, the encoder is the demo's and encodes every caption. Clients share the machine with the server.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch

from benchmarks.corpus import unit_rows
from data_prep.encoder import load_encoder
from rank_xmodal.scorers.context_aware.ranker import RankerConfig
from rank_xmodal.scorers.context_aware.scorer import ContextAware
from rank_xmodal.scorers.csls import CSLS
from rank_xmodal.scorers.stack import Stack
from rank_xmodal.use.reranker import Reranker

COLOURS = ("red", "green", "blue", "yellow", "purple", "brown", "black", "pink")
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "moon", "ring")
PLACES = ("above", "below", "to the left of", "to the right of")
BANK = 2_000


def make_index(folder: Path, items: int, scorer: str) -> None:
    """Write an index of a drawn corpus whose ranker belongs to the demo's encoder."""
    encoder = load_encoder("scenes-clip", "scenes", "cpu", say=lambda line: None)
    torch.manual_seed(0)
    ranker: Any = CSLS()
    if scorer == "context_aware":
        ranker = ContextAware(features="embeddings")
        ranker.network_of = RankerConfig(dim=encoder.dim)
        ranker.network = ranker.build(ranker.network_of).eval()  # speed needs no training
    facts = {"direction": "t2i", "encoder": encoder.identity}
    reranker = Reranker(Stack(ranker, unit_rows(BANK, encoder.dim, 3)), facts, torch.device("cpu"))
    names = [f"i{row}" for row in range(items)]
    splits = np.where(np.arange(items) % 10 == 0, "test", "train").tolist()
    reranker.index(unit_rows(items, encoder.dim, 1), ids=names, metadata={"split": splits}).save(folder)


@contextmanager
def served(index: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Yield the process of a server and its address."""
    command = [sys.executable, "-m", "experiments.cli.main", "serve", str(index), "--port", "0", "--rate", "0"]
    process = subprocess.Popen([*command, "--device", "cpu"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("ready: "):
                break
        else:
            raise RuntimeError("".join(said))
        yield process, line.split()[1]
    finally:
        process.terminate()
        process.wait(30)


def memory(process: subprocess.Popen[str]) -> dict[str, float]:
    """Return a process' resident memory in MB, of all, of what is its own, and at its most; Linux alone tells."""
    told = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    named = {"VmRSS": "rss", "RssAnon": "anonymous", "VmHWM": "peak"}
    pairs = (line.split(":") for line in told)
    return {named[name]: int(value.split()[0]) * 1024 / 1e6 for name, value in pairs if name in named}


def load(address: str, clients: int, seconds: float) -> tuple[list[float], list[int], float]:
    """Return the seconds of each search, the sizes of the batches they were in, and how long all took."""
    place, until = urlsplit(address), time.perf_counter() + seconds
    taken: list[list[float]] = [[] for _ in range(clients)]
    batches: list[list[int]] = [[] for _ in range(clients)]
    failed: list[str] = []

    def client(number: int) -> None:
        rng = np.random.default_rng(number)
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)
        while time.perf_counter() < until:
            a, b = rng.choice(COLOURS, 2)
            text = f"a {a} {rng.choice(SHAPES)} {rng.choice(PLACES)} a {b} {rng.choice(SHAPES)}"
            body = json.dumps({"text": text, "k": 10})
            started = time.perf_counter()
            connection.request("POST", "/search", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            told = json.loads(answer.read())
            taken[number].append(time.perf_counter() - started)
            if answer.status != 200 or len(told["hits"]) != 10:
                failed.append(str(told))
                return
            batches[number].append(told["timings"]["batch"])

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise RuntimeError(failed[0])
    return [x for one in taken for x in one], [x for one in batches for x in one], time.perf_counter() - started


def main() -> None:
    """Measure, and print what was found as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--scorer", choices=["csls", "context_aware"], default="context_aware")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_index(Path(folder) / "index", asked.items, asked.scorer)
        started = time.perf_counter()
        with served(Path(folder) / "index") as (process, address):
            ready = time.perf_counter() - started
            load(address, 1, 1.0)  # warm
            for clients in (1, asked.clients):
                before = memory(process)
                taken, batches, seconds = load(address, clients, asked.seconds)
                p50, p99 = (1_000 * float(np.percentile(taken, share)) for share in (50, 99))
                found = {
                    "scorer": asked.scorer, "items": asked.items, "clients": clients, "searches": len(taken),
                    "searches a second": round(len(taken) / seconds, 1), "p50 ms": round(p50, 1),
                    "p99 ms": round(p99, 1), "batch": round(float(np.mean(batches)), 1),
                    "ready after s": round(ready, 1), "rss MB before": round(before["rss"]),
                    **{f"{name} MB": round(value) for name, value in memory(process).items()},
                    "load average": round(os.getloadavg()[0], 1),
                }  # fmt: skip
                print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
