"""Our stages and the peers', alternating, on the same data and threads: ``python -m benchmarks [NAME ...]``.

Writes benchmarks/results.json, a table (benchmarks/README.md) and a plot; exits with 1 if a ratio is missed.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks import growth
from benchmarks.measure import Row, copy_rate, matmul_rate
from rank_xmodal.errors import UserError
from rank_xmodal.files import read_json, replacing, write_json

FOLDER = Path(__file__).parent
NAMES = (
    "training_step",
    "losses_alone",
    "scoring",
    "end_to_end",
    "beside",
    "mining",
    "executors",
    "memory",
    "encoding",
    "growth",
    "local_scoring",
    "hamming_search",
)
_PACKAGES = ("torch", "allRank", "sentence-transformers", "faiss-cpu", "open_clip_torch", "numpy")


def machine() -> dict[str, Any]:
    """Describe what the figures were measured on."""
    try:
        cpu = next(
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        )
    except (OSError, StopIteration):
        cpu = platform.processor()
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "float32 matrix product, GFLOP/s": round(matmul_rate() / 1e9, 1),
        "bf16 matrix product, GFLOP/s": round(matmul_rate(torch.bfloat16) / 1e9, 1),
        "copy, GB/s": round(copy_rate() / 1e9, 1),
        "python": platform.python_version(),
        "packages": versions,
    }


BEGIN, END = "<!-- begin: written by make bench -->", "<!-- end: written by make bench -->"


def table(results: dict[str, Any]) -> str:
    """Return the results as a page."""
    facts = results["machine"]
    lines = [
        "`make bench` measures this table anew: both sides on the same data and the same number of threads,",
        "alternating; medians, and the ratio's smallest and largest value over the repeats. A ratio is how many times",
        "as fast, or as small, as the peer. The limit is the least time that the floating-point operations take at the",
        "rate of this machine's matrix product, bf16 in mining where the processor has it and else float32; of a loss",
        "alone, the time to copy its scores, labels and gradient; end to end, that of the training's steps.",
        "",
        f"Measured on {facts['cpu']}, {facts['threads']} threads, {facts['capability']}: "
        f"{facts['float32 matrix product, GFLOP/s']} GFLOP/s in float32, "
        f"{facts['bf16 matrix product, GFLOP/s']} in bf16, copies {facts['copy, GB/s']} GB/s; "
        f"Python {facts['python']}, "
        + ", ".join(f"{name} {number}" for name, number in facts["packages"].items())
        + ".",
        "",
        "| work | peer | ours | theirs | ratio | range | at least | limit |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for line in _lines(results, NAMES):
        asked = "" if line["at_least"] is None else f"{line['at_least']:.2f}" + ("" if line["met"] else ", **missed**")
        limit = "" if line["limit"] is None else _quantity(line["limit"], "s")
        lines.append(
            f"| {line['work']} | {line['peer']} | {_quantity(line['ours'], line['unit'])} | "
            f"{_quantity(line['theirs'], line['unit'])} | {line['ratio']:.2f} | "
            f"{line['low']:.2f} to {line['high']:.2f} | {asked} | {limit} |"
        )
    if curves := results["rows"].get("growth"):
        lines += ["", "## Growth", "", "![Time and memory against size](growth.png)", ""]
        lines += [
            "| work | sizes | seconds | MB, peak of the process | time ~ size to the power of |",
            "|---|---|---|---|---:|",
        ]
        for curve in curves:
            lines.append(
                f"| {curve['curve']} | {', '.join(f'{size:,}' for size in curve['sizes'])} | "
                f"{', '.join(f'{x:.1f}' for x in curve['seconds'])} | "
                f"{', '.join(f'{x:.0f}' for x in curve['megabytes'])} | {curve['exponent']:.2f} |"
            )
        lines += ["", "A list's time grows faster than its length: everything in it attends to everything."]
    return "\n".join(lines) + "\n"


def write_page(path: Path, measured: str) -> None:
    """Put what was measured between its two marks; what people wrote around them stays."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    with replacing(path) as part:
        part.write_text(f"{before}{BEGIN}\n\n{measured}\n{END}{after}", encoding="utf-8")


def _lines(results: dict[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    return [line for name in names if name != "growth" for line in results["rows"].get(name, [])]


def _quantity(value: float, unit: str) -> str:
    if unit == "s":
        if value < 1e-4:
            return f"{1e6 * value:.1f} µs"
        return f"{1e3 * value:.1f} ms" if value < 1 else f"{value:.1f} s"
    return f"{value:,.0f} {unit}"


def main() -> int:
    """Measure what is asked for, keep the rest as it was measured, write, and say what was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; by default all")
    asked = parser.parse_args().names or list(NAMES)
    if unknown := [name for name in asked if name not in NAMES]:
        parser.error(f"{unknown[0]!r}: no such benchmark; there are {', '.join(NAMES)}")
    path = FOLDER / "results.json"
    results: dict[str, Any] = {"machine": machine(), "rows": {}}
    if path.is_file():
        kept = read_json(path)
        rates = {name: rate for name, rate in kept["machine"].items() if "/s" in name}
        if kept["machine"] == {**results["machine"], **rates}:
            results["rows"] = kept["rows"]
            # The fastest is what the machine can do.
            results["machine"].update({name: max(rate, results["machine"][name]) for name, rate in rates.items()})
        else:
            print(f"{path}: measured elsewhere or with other packages; its rows are replaced.", file=sys.stderr)
    for name in asked:
        started = time.perf_counter()
        try:
            if name == "growth":
                results["rows"][name] = growth.measure()
                growth.plot(results["rows"][name], FOLDER / "growth.png")
            else:
                found: list[Row] = list(importlib.import_module(f"benchmarks.{name}").rows())
                results["rows"][name] = [line.as_dict() for line in found]
        except UserError as error:
            print(f"bench: {name}: {error}", file=sys.stderr)
            return 2
        write_json(path, results)
        write_page(FOLDER / "README.md", table(results))
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    print(table(results))
    missed = [line for line in _lines(results, asked) if not line["met"]]
    for line in missed:
        print(f"missed: {line['work']} against {line['peer']}: {line['ratio']:.2f}, at least {line['at_least']:.2f}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
