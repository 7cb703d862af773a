"""How time and memory of each stage grow with the number of items, beside what a model of cost says.

``python -m benchmarks.scale [--largest 1000000] [--narrow 10000000] --out FILE.json`` measures 10,000, 100,000 ...
items of 512 numbers, each point in a process of its own, and prints tables. A million takes ten minutes and 9 GB.

The model is the least that the stage must do, at rates that are measured first: floating-point operations at the rate
of a matrix product, bytes read and written in memory at that of copying, bytes hashed, bytes flushed to the disk. The
ratio of what was measured to it says how much is something else: tables of ids and captions, Python, searching tops.
What a cluster would send is told in bytes.

Memory is the peak that a process has of its own (RssAnon), and the peak of mapped pages (RssFile), which the system may
take back; both are sampled. CPU seconds are those of all threads: other work beside it changes them less.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.corpus import unit_rows
from benchmarks.measure import copy_rate, matmul_rate, memory, peaks
from benchmarks.million import parts, seconds
from data_prep.importing import import_embeddings
from data_prep.mining.miner import mine
from data_prep.partial import Side
from rank_xmodal import scorers
from rank_xmodal.data.candidate_lists import CandidateLists
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.scorers.csls import CSLS
from rank_xmodal.scorers.stack import Stack, TrainingPart, fit_stack
from rank_xmodal.use import index_folder
from rank_xmodal.use.index import Index

DIM, NARROW, QUERIES, LENGTH, BANK, NEAR = 512, 64, 2_000, 51, 1_000, 10
SEARCHES, EPOCHS, PART = 50, 3, 1_024  # single queries, of the ranker, rows that a worker hands the driver
IMAGES = (875, 1_750, 3_500)  # that the demo's encoder encodes
_BLOCK, _TRIES = 50_000, 10


@dataclass(frozen=True)
class Cost:
    """What a stage must do at least.

    Attributes
    ----------
    half, single : floating-point operations in bf16 where the processor has it, and in float32
    moved, hashed, stored : bytes read and written in memory, through SHA-256, and flushed to the disk
    sent : bytes that a cluster would send to one more machine, and get back; no part of the modelled time
    """

    half: float = 0.0
    single: float = 0.0
    moved: float = 0.0
    hashed: float = 0.0
    stored: float = 0.0
    sent: float = 0.0


@dataclass(frozen=True)
class Rates:
    """What this machine does in a second; see `Cost`."""

    half: float
    single: float
    moved: float
    hashed: float
    stored: float

    def seconds(self, cost: Cost) -> float:
        """Return how long the cost takes at these rates, one after the other."""
        return sum(getattr(cost, name) / rate for name, rate in asdict(self).items())

    @classmethod
    def measured(cls, folder: Path) -> Rates:
        """Measure this machine, and the disk of a folder."""
        data, file = np.random.default_rng(0).bytes(1 << 28), folder / "rate"
        started = time.perf_counter()
        with file.open("wb", buffering=0) as out:
            out.write(data)
            os.fsync(out.fileno())
        writing = time.perf_counter() - started
        file.unlink()
        hashing, _ = seconds(lambda: hashlib.sha256(data).digest())
        kinds = [torch.bfloat16, torch.float32]
        # Several times, as other work may run beside it; the processor may not have bf16.
        half, single = (max(matmul_rate.__wrapped__(kind) for _ in range(_TRIES)) for kind in kinds)
        return cls(max(half, single), single, copy_rate(), len(data) / hashing, len(data) / writing)


def flops_of(work: Callable[[], Any]) -> float:
    """Return the floating-point operations of a function: two for a multiplication with an addition."""
    torch.backends.mha.set_fastpath_enabled(False)  # its products wouldn't be counted
    with FlopCounterMode(display=False) as counter:
        work()
    torch.backends.mha.set_fastpath_enabled(True)
    return float(counter.get_total_flops())


Point = tuple[Callable[[], Any], Cost]
"""The work that is timed, and what it must do at least."""


def inputs(folder: Path, count: int) -> None:
    """Write what the stages of this size begin with: two float32 arrays and a table of captions."""
    folder.mkdir(exist_ok=True)
    for side, noise in (("images", 0.0), ("texts", 0.03)):
        rng = np.random.default_rng(5)
        rows = np.lib.format.open_memmap(folder / f"{side}.npy", "w+", np.float32, (count, DIM))
        for start in range(0, count, _BLOCK):
            size = min(_BLOCK, count - start)
            rows[start : start + size] = unit_rows(size, DIM, start)
            if noise:
                rows[start : start + size] += noise * rng.standard_normal((size, DIM), dtype=np.float32)
        del rows
    with (folder / "captions.csv").open("w") as out:
        out.write("caption_id,image_id,caption,split\n")
        out.writelines(f"c{row},{row},a photograph of thing {row} beside another,train\n" for row in range(count))


def importing(folder: Path, count: int) -> Point:
    """Import both sides' .npy and the table of captions into an embedding set."""
    size = 2 * count * DIM  # read as float32, written to a file, read from it, written to the set; hashed twice
    cost = Cost(moved=size * (4 + 2 + 2 + 2), hashed=2 * size * 2, stored=size * 2)
    files = (folder / "images.npy", folder / "texts.npy", folder / "captions.csv", folder / "set")
    return lambda: import_embeddings(*files, overwrite=True, say=lambda line: None), cost


def opening(folder: Path, count: int) -> Point:
    """Open the set, for the first time in a process: it is compared with its fingerprint."""
    return lambda: EmbeddingSet.open(folder / "set"), Cost(hashed=2 * count * DIM * 2)


def _asking(folder: Path) -> EmbeddingSet:
    """Return the set with its first captions alone, and all images."""
    data = EmbeddingSet.open(folder / "set")
    kept = data.relevance[data.relevance["text"] < QUERIES].reset_index(drop=True)
    return replace(data, text_emb=data.text_emb[:QUERIES], texts=data.texts[:QUERIES], relevance=kept)


def mining(folder: Path, count: int) -> Point:
    """Mine the lists of 2,000 captions out of all images."""
    data = _asking(folder)
    cost = Cost(
        half=2.0 * count * QUERIES * DIM, moved=count * DIM * 4, sent=2 * count * DIM * 2 + QUERIES * LENGTH * 9
    )
    return lambda: mine(data, "t2i", pool="all").write(folder / "lists.parquet"), cost


def training(folder: Path, count: int) -> Point:
    """Train the ranker with features=embeddings on these 2,000 lists, three epochs."""
    data = _asking(folder)
    lists = CandidateLists.read(folder / "lists.parquet", data)

    def fit(epochs: int) -> None:
        torch.manual_seed(0)
        scorer = scorers.get("context_aware", features="embeddings", loss="listnet", epochs=epochs, device="cpu")
        fit_stack(scorer, data, "t2i", parts=[TrainingPart(lists, data)], device=torch.device("cpu"))

    once, twice = (flops_of(lambda epochs=epochs: fit(epochs)) for epochs in (1, 2))  # type: ignore[misc]
    epoch = twice - once
    return lambda: fit(EPOCHS), Cost(half=once - epoch, single=EPOCHS * epoch)  # half: the candidates' neighbours


def building(folder: Path, count: int, narrow: bool = False) -> Point:
    """Write an exact index: CSLS with a bank of 1,000 queries."""
    width, rows = (NARROW, _narrow(folder, count)) if narrow else (DIM, EmbeddingSet.open(folder / "set").image_emb)
    path, stack = folder / ("narrow" if narrow else "index"), Stack(CSLS(), unit_rows(BANK, width, 3))
    stored = count * (width * 2 + NEAR * 4)
    cost = Cost(half=2.0 * count * BANK * width, moved=count * width * (2 + 2), stored=stored)
    return lambda: index_folder.write(path, "exact", stack, {"direction": "t2i"}, None, parts(stack, rows)), cost


def _narrow(folder: Path, count: int) -> np.ndarray:
    rows = np.lib.format.open_memmap(folder / "narrow.npy", "w+", np.float16, (count, NARROW))
    for start in range(0, count, _BLOCK):
        rows[start : start + _BLOCK] = unit_rows(min(_BLOCK, count - start), NARROW, start)
    return rows


def finding(folder: Path, count: int, narrow: bool = False) -> Point:
    """Search 50 times, one query each, after three to warm up."""
    width, index = (NARROW if narrow else DIM), Index.load(folder / ("narrow" if narrow else "index"))
    queries = unit_rows(SEARCHES + 3, width, 9)

    def work(asked: np.ndarray = queries[:SEARCHES]) -> None:
        for query in asked:
            index.search(query)

    work(queries[SEARCHES:])
    return work, Cost(moved=SEARCHES * count * width * 2)


def keeping(folder: Path, count: int) -> Point:
    """Keep what workers send as `embed`'s driver does: a path and a key for each image, rows appended to a file."""
    rows = unit_rows(PART, DIM, 0)

    def work() -> None:
        paths = [Path(f"/shared/photos/{row:010d}.jpg") for row in range(count)]
        keys = {row: hashlib.sha256(str(path).encode()).digest()[:16] for row, path in enumerate(paths)}
        side = Side(folder / "image.f16", folder / "image.keys", DIM)
        for start in range(0, count, PART):
            some = [keys[row] for row in range(start, min(start + PART, count))]
            side.append(some, rows[: len(some)])

    return work, Cost(moved=count * (DIM * 2 + 20) * 2, sent=count * (DIM * 2 + 60))


def encoding(folder: Path, count: int) -> Point:
    """Encode pictures of the demo's corpus by its encoder: read, decoded, encoded, without captions."""
    from data_prep.datasets.corpus import Corpus
    from data_prep.datasets.scenes import load_scenes
    from data_prep.embed import embed
    from data_prep.encoder import load_encoder

    encoder = load_encoder("scenes-clip", "scenes", "cpu", say=lambda line: None)
    whole = load_scenes(folder / "scenes", counts={"train": 3_500, "val": 0, "test": 0}, say=lambda line: None)
    corpus = Corpus("scenes", whole.images[:count], whole.texts[:0], whole.relevance[:0], whole.image_root)
    pixels = encoder.load_image(corpus.paths()[0])[None]
    cost = Cost(single=count * flops_of(lambda: encoder.encode_pixels(pixels, [""])), sent=count * (DIM * 2 + 60))
    return lambda: embed(
        corpus, encoder, folder / "encoded", overwrite=True, progress=False, say=lambda line: None
    ), cost


def large(folder: Path, count: int) -> Point:
    """Encode pixels that are there already by ViT-B/32, 64 at a time; speed needs no trained weights."""
    from data_prep.weights import import_open_clip

    model = import_open_clip().create_model("ViT-B-32-quickgelu").eval()
    pixels = torch.zeros(64, 3, 224, 224)

    @torch.inference_mode()
    def work(times: int = count // 64, size: int = 64) -> None:
        for _ in range(times):
            model.encode_image(pixels[:size])

    return work, Cost(single=count // 64 * 64 * flops_of(lambda: work(1, 1)))


def decoding(folder: Path, count: int) -> Point:
    """Read and decode JPEG files of 500 x 375 and scale them to 224 x 224, one thread."""
    from benchmarks import encoding as photographs
    from data_prep.images import read_image
    from data_prep.weights import import_open_clip

    photographs._draw(folder / "jpeg")
    files = sorted((folder / "jpeg").glob("*.jpg"))
    prepared = import_open_clip().image_transform(224, is_train=False)

    def work() -> None:
        for row in range(count):
            prepared(read_image(files[row % len(files)]))

    return work, Cost()


STAGES: dict[str, Callable[[Path, int], Point]] = {
    "import": importing,
    "open the set": opening,
    "mine 2,000 queries": mining,
    "train, 2,000 lists": training,
    "index": building,
    "open the index": lambda folder, count: (lambda: Index.load(folder / "index"), Cost()),
    "50 searches": finding,
    "embed's driver": keeping,
}
OTHERS: dict[str, Callable[[Path, int], Point]] = {
    "encode images": encoding,
    "ViT-B/32, pixels": large,
    "decode JPEG": decoding,
    "index, 64 wide": lambda folder, count: building(folder, count, True),
    "open the index, 64 wide": lambda folder, count: (lambda: Index.load(folder / "narrow"), Cost()),
    "50 searches, 64 wide": lambda folder, count: finding(folder, count, True),
}


def one(stage: str, folder: Path, count: int) -> dict[str, Any]:
    """Return seconds, CPU seconds, what memory the process had before (MB), and the cost of a point."""
    before = memory("self")["RssAnon"]
    work, cost = {**STAGES, **OTHERS}[stage](folder, count)
    started = time.process_time()
    taken, _ = seconds(work)
    return {"seconds": taken, "cpu": time.process_time() - started, "before": before, "cost": asdict(cost)}


def apart(stage: str, folder: Path, count: int, rates: Rates) -> dict[str, Any]:
    """Return a point, measured in a process of its own, with its peaks and what the model says."""
    where = ["--folder", str(folder), "--out", str(folder / "point.json")]
    highest = peaks([sys.executable, "-m", "benchmarks.scale", "--point", stage, "--size", str(count), *where])
    point = json.loads((folder / "point.json").read_text())
    modelled = rates.seconds(Cost(**{**point["cost"], "sent": 0.0}))
    return {
        "stage": stage,
        "items": count,
        **point,
        "own": highest["RssAnon"] - point["before"],
        "mapped": highest["RssFile"],
        "modelled": modelled,
        "ratio": point["seconds"] / modelled if modelled else None,
    }


def table(points: list[dict[str, Any]]) -> str:
    """Return the points as a table; the exponent is that of the seconds' growth from the size before."""
    lines = [
        "| stage | items | seconds | CPU s | items/s | own MB | mapped MB | modelled s | ratio | exponent | sent MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    before: dict[str, dict[str, Any]] = {}
    for point in sorted(points, key=lambda point: [*STAGES, *OTHERS].index(point["stage"])):
        last, n, taken = before.get(point["stage"]), point["items"], point["seconds"]
        grown = math.log(taken / last["seconds"]) / math.log(n / last["items"]) if last else None
        before[point["stage"]] = point
        cells = [
            point["stage"], f"{n:,}", f"{taken:,.3f}", f"{point['cpu']:,.2f}", f"{n / taken:,.0f}",
            f"{point['own']:,.0f}", f"{point['mapped']:,.0f}", f"{point['modelled']:,.3f}" if point["modelled"] else "",
            f"{point['ratio']:,.1f}" if point["ratio"] else "", "" if grown is None else f"{grown:.2f}",
            f"{point['cost']['sent'] / 1e6:,.1f}" if point["cost"]["sent"] else "",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measure(folder: Path, largest: int, narrow: int, out: Path) -> None:
    """Measure all points, smaller sizes first; write what there is after each."""
    rates = Rates.measured(folder)
    points: list[dict[str, Any]] = []

    def told() -> None:
        out.write_text(json.dumps({"rates": asdict(rates), "points": points}, indent=1) + "\n")

    size = 10_000
    while size <= largest:
        place = folder / str(size)
        inputs(place, size)
        for stage in STAGES:
            points.append(apart(stage, place, size, rates))
            print(table(points[-1:]).splitlines()[-1], flush=True)
            told()
        subprocess.run(["rm", "-r", str(place)], check=True)
        size *= 10
    rest = [("encode images", count) for count in IMAGES] + [("ViT-B/32, pixels", 192), ("decode JPEG", 576)]
    for stage, count in [*rest, *((stage, narrow) for stage in OTHERS if "64" in stage and narrow)]:
        points.append(apart(stage, folder, count, rates))
        told()
    print("\nA second: " + ", ".join(f"{name} {rate / 1e9:,.1f} G" for name, rate in asdict(rates).items()))
    print(f"\n{table(points)}")


def main() -> None:
    """Measure, or one point of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=1_000_000, help="items; below 10,000 only encoding is measured")
    parser.add_argument("--narrow", type=int, default=0, help="items of an index 64 numbers wide, such as 10000000")
    parser.add_argument("--folder", type=Path, help="where to work: 9 GB for a million")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--point", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.point:
        told.out.write_text(json.dumps(one(told.point, told.folder, told.size)))
        return
    with tempfile.TemporaryDirectory(dir=told.folder) as folder:
        measure(Path(folder), told.largest, told.narrow, told.out)


if __name__ == "__main__":
    main()
