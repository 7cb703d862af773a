"""Templates that no command makes: inputs to be spoiled, and work that was interrupted at a known place."""

import json
import re
import shutil
from collections.abc import Callable
from typing import Any

from tests.faults import child
from tests.faults.child import Fault
from tests.faults.scenarios import EMBED, EPOCHS, MINE, QUIET

CONFIG = """# settings of a training
scorer: context_aware
on: clip
features: embeddings
loss: lambdaloss
loss_params: {sigma: 1.0, k: 5}
epochs: 3
lr: 1e-3
negatives: 4
pool: 20
refit: auto
calibrate: false
seed: 3
device: cpu
"""
PLAN = """against: [CSLS, plain]
settings: {seed: 1, on: clip}
rows:
  plain: {scorer: csls}
  centred: {scorer: csls, on: centred}
  ListNet: {loss: listnet, epochs: 3, lists: judged}
protocols: [gallery]
judge: test
seeds: 2
note: a plan to be spoiled
"""


def _arrays(bench: Any) -> None:
    for name in ("A.npy", "B.npy", "C.csv"):
        shutil.copy2(bench.place.inputs / name, bench.place.work)


def _kinds(bench: Any) -> None:
    shutil.copy2(bench.place.inputs / "kinds.mat", bench.place.work)


def _arrays_parquet(bench: Any) -> None:
    import csv

    import pyarrow as pa
    import pyarrow.parquet as pq

    _arrays(bench)
    table = bench.place.work / "C.csv"
    with table.open() as handle:
        rows = list(csv.DictReader(handle))

    def write() -> int:
        pq.write_table(pa.Table.from_pylist(rows), table.with_suffix(".parquet"))
        return 0

    child.fork(bench.place, write).wait()  # in a child: Arrow's threads don't outlive a fork
    table.unlink()


def _photos(bench: Any) -> None:
    shutil.copytree(bench.place.inputs / "photos", bench.place.work, dirs_exist_ok=True)


def _karpathy(bench: Any) -> None:
    images = bench.place.work / "flickr30k-images"
    shutil.copytree(bench.place.inputs / "photos", images)
    (images / "captions.csv").unlink()
    entries = [
        {
            "filename": f"{i}.png", "imgid": i, "split": ("train", "train", "val", "test")[i % 4], "sentids": [2 * i],
            "sentences": [{"raw": f"photo number {i}", "sentid": 2 * i, "imgid": i, "tokens": ["photo"]}],
        }
        for i in range(12)
    ]  # fmt: skip
    (bench.place.work / "dataset_flickr30k.json").write_text(json.dumps({"images": entries, "dataset": "flickr30k"}))


def _texts(bench: Any) -> None:
    (bench.place.work / "config.yaml").write_text(CONFIG)
    (bench.place.work / "plan.yaml").write_text(PLAN)


def _lists(bench: Any) -> None:
    bench.undisturbed(MINE)


def _killed_after(bench: Any, start: str, command: tuple[str, ...], pattern: str) -> None:
    """Kill a command before the event that follows the last one like `pattern`, and keep what it left."""
    bench.restore(start)
    steps = bench.undisturbed(command, Fault("events")).steps
    numbers = [n for n, step in enumerate(steps, start=1) if re.search(pattern, step)]
    if not numbers:
        bench.cannot(f"no event of `{command[0]}` is like {pattern}")
    bench.restore(start)
    child.run(bench.place, command, Fault("event", numbers[-1] + 1))


def _checkpoint(bench: Any) -> None:
    _killed_after(bench, "set", (*EPOCHS, *QUIET), r"os.rename work/run/checkpoint")


def _partial(bench: Any) -> None:
    _killed_after(bench, "", EMBED, r"open .*/image.keys")


BY_HAND: dict[str, tuple[str, Callable[[Any], None]]] = {
    "arrays": ("", _arrays),
    "kinds": ("", _kinds),
    "arrays-parquet": ("", _arrays_parquet),
    "photos": ("", _photos),
    "karpathy": ("", _karpathy),
    "texts": ("", _texts),
    "lists": ("set", _lists),
    "checkpoint": ("set", _checkpoint),
    "partial": ("", _partial),
}
"""By name, what it goes on from, and who makes it."""
