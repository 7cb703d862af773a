"""Comparing two ways to do the same work: alternating, in one process or in two, as ratios with their spread."""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from rank_xmodal.errors import UserError

REPEATS = 5
_TICK = 0.01  # seconds


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes
    ----------
    work, peer : what was done, and by what else
    unit : of `ours` and `theirs`: "s" or "MB"
    ours, theirs : medians over the repeats
    ratio : theirs / ours, the median over pairs of repeats: times as fast, or as small, as the peer
    low, high : the smallest and the largest ratio of a pair
    at_least : the ratio that it must reach, or None where it is only reported
    limit : the least time that this machine could do it in, in s, or None; see `matmul_rate` and `copy_rate`
    """

    work: str
    peer: str
    unit: str
    ours: float
    theirs: float
    ratio: float
    low: float
    high: float
    at_least: float | None
    limit: float | None = None

    @property
    def met(self) -> bool:
        """Whether the ratio is what it must be."""
        return self.at_least is None or self.ratio >= self.at_least

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**asdict(self), "met": self.met}


def row(
    work: str,
    peer: str,
    pairs: Sequence[tuple[float, float]],
    at_least: float | None,
    *,
    unit: str = "s",
    limit: float | None = None,
) -> Row:
    """Make a row of pairs (ours, theirs)."""
    ratios = [theirs / ours for ours, theirs in pairs]
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    return Row(work, peer, unit, ours, theirs, statistics.median(ratios), min(ratios), max(ratios), at_least, limit)


def alternate(
    ours: Callable[[], object], theirs: Callable[[], object], *, times: int = 1, repeats: int = REPEATS
) -> list[tuple[float, float]]:
    """Return seconds a call, (ours, theirs), for each repeat of `times` calls; who is first changes every time."""
    for function in (ours, theirs):  # warm
        function()
    pairs = []
    for repeat in range(repeats):
        taken = {}
        for function in (ours, theirs) if repeat % 2 == 0 else (theirs, ours):
            started = time.perf_counter()
            for _ in range(times):
                function()
            taken[function] = (time.perf_counter() - started) / times
        pairs.append((taken[ours], taken[theirs]))
    return pairs


Built = tuple[Callable[..., Callable[[], object]], tuple[Any, ...]]


def alternate_apart(ours: Built, theirs: Built, *, times: int = 1, repeats: int = REPEATS) -> list[tuple[float, float]]:
    """As `alternate`, each side in a process of its own, and each first and second within a repeat.

    Small work suffers from what another leaves in the caches, and whoever comes second is up to 1.4 times slower.

    Each side is a function at the top of a module and its arguments; what it returns is called and timed.
    """
    context = multiprocessing.get_context("spawn")
    sides = []
    for side in (ours, theirs):
        here, there = context.Pipe()
        child = context.Process(target=_serve, args=(there, torch.get_num_threads(), side), daemon=True)
        child.start()
        there.close()
        sides.append((here, child))

    def asked(connection: Any, count: int) -> float:
        try:
            connection.send(count)
            return float(connection.recv()) / count
        except (EOFError, OSError):
            raise UserError("a process of the benchmark has ended; its error stands above.") from None

    try:
        for connection, _ in sides:
            asked(connection, times)  # warm
        pairs = []
        for _ in range(repeats):
            taken = [0.0, 0.0]
            for place in (0, 1, 1, 0):  # whoever comes second finds the processor as the other left it
                taken[place] += asked(sides[place][0], times) / 2
            pairs.append((taken[0], taken[1]))
        return pairs
    finally:
        for connection, child in sides:
            connection.close()
            child.join(20)


def _serve(connection: Any, threads: int, side: Built) -> None:
    torch.set_num_threads(threads)
    build, arguments = side
    function = build(*arguments)
    while True:
        try:
            count = connection.recv()
        except EOFError:
            return
        started = time.perf_counter()
        for _ in range(count):
            function()
        connection.send(time.perf_counter() - started)


# A process counts the memory of whoever started it as its own peak: a small one has to stand between.
_LAUNCH = """
import json, os, subprocess, sys, time
started = time.perf_counter()
child = subprocess.Popen(sys.argv[2:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
said = child.stdout.read().decode(errors="replace")
_, status, usage = os.wait4(child.pid, 0)
facts = [os.waitstatus_to_exitcode(status), time.perf_counter() - started, usage.ru_maxrss, said[-2000:]]
with open(sys.argv[1], "w") as note:
    json.dump(facts, note)
"""


def process(command: Sequence[str | Path], **more: str) -> tuple[float, float]:
    """Run a command; return its seconds and its peak resident memory in MB. `more` are environment variables.

    Raises
    ------
    UserError
        With the end of what it said, if it fails.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONWARNINGS": "ignore", **more}
    asked = [str(part) for part in command]
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder) / "note.json"
        subprocess.run([sys.executable, "-S", "-c", _LAUNCH, str(note), *asked], env=environment, check=True)
        code, seconds, peak, said = json.loads(note.read_text())
    if code:
        raise UserError(f"{' '.join(asked)}: exit {code}.\n{said}")
    return float(seconds), peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def memory(process: int | str) -> dict[str, float]:
    """Return a process' resident memory by kind, in MB, as Linux counts it; nothing where the process has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) * 1_024 / 1e6 for line in lines if line.startswith("Rss")}


def peaks(command: Sequence[str | Path]) -> dict[str, float]:
    """Run a command; return the peaks, in MB, of what memory is its own (RssAnon) and of mapped files' (RssFile).

    Both are looked at every hundredth of a second.

    Raises
    ------
    UserError
        If the command fails.
    """
    child = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    highest = {"RssAnon": 0.0, "RssFile": 0.0}
    while child.poll() is None:
        found = memory(child.pid)
        highest = {name: max(peak, found.get(name, 0.0)) for name, peak in highest.items()}
        time.sleep(_TICK)
    if child.returncode:
        raise UserError(f"{' '.join(map(str, command))}: exit {child.returncode}.")
    return highest


@cache
def matmul_rate(dtype: torch.dtype = torch.float32) -> float:
    """Return this machine's floating-point operations a second in a plain matrix product of 1,024 x 1,024."""
    a, b = torch.randn(2, 1024, 1024).to(dtype)
    return 2 * 1024**3 / _fastest(lambda: a @ b)


@cache
def copy_rate() -> float:
    """Return the bytes a second, read and written together, of copying 256 MB."""
    a = torch.empty(1 << 26)
    b = torch.empty_like(a)
    return 2 * a.nbytes / _fastest(lambda: b.copy_(a))


def _fastest(function: Callable[[], object], repeats: int = 10) -> float:
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        taken.append(time.perf_counter() - started)
    return min(taken)
