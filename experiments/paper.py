"""The paper's Table 2, every row on the same lists: ``python -m experiments.paper --data DATA``.

The paper's recipe, four losses, and baselines on the same frozen embeddings, all of them reordering 51 candidates that
were mined for the test split by the same protocol as for training: "paper", as its own table must have been made, and
"clean", where the positive stands in a list once and its siblings are not negatives. Published figures stand beside.
What is finished is kept in --out.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from data_prep.mining.miner import mine
from experiments.kept import SHOWN, as_frame, keep
from experiments.lists import POOL
from experiments.study import Row, as_table, cells_of
from rank_xmodal import baselines, settings
from rank_xmodal.candidate_lists import CandidateLists
from rank_xmodal.embedding_set import DIRECTIONS, Direction, EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation import FirstStage, first_stage, per_query, score_lists
from rank_xmodal.files import replacing
from rank_xmodal.list_tensors import ListTensors
from rank_xmodal.query_bank import choose_bank, neighbours
from rank_xmodal.ranker import ListBatch
from rank_xmodal.ranker_folder import pick_device
from rank_xmodal.tracking import Tracker, metric_key
from rank_xmodal.training import train

PROTOCOLS = ("paper", "clean")
NEGATIVES = 50
# Its Table 2, R@1 / R@5 / R@10. Its "text" columns are read as text queries: CLIP's 83.46 and 90.30 there are the known
# zero-shot figures of text to image (83.56, 90.02).
PUBLISHED: dict[str, dict[str, tuple[float, float, float]]] = {
    "LambdaRank": {"t2i": (20.02, 75.70, 91.74), "i2t": (12.48, 52.14, 74.66)},
    "NeuralNDCG": {"t2i": (23.14, 80.20, 92.25), "i2t": (13.52, 57.04, 76.54)},
    "ListNet": {"t2i": (21.82, 80.14, 92.16), "i2t": (13.82, 57.50, 76.42)},
    "RankNet": {"t2i": (20.02, 76.84, 92.06), "i2t": (13.22, 55.24, 77.46)},
    "DCCA": {"t2i": (12.60, 31.00, 43.00), "i2t": (16.70, 39.30, 52.90)},
    "CMPM": {"t2i": (29.10, 56.30, 67.70), "i2t": (37.10, 65.80, 76.30)},
    "CLIP": {"t2i": (29.46, 83.46, 90.30), "i2t": (16.16, 58.56, 73.68)},
}


@dataclass(frozen=True)
class Method:
    """A row: a baseline by its name in the registry, or the settings of a training."""

    label: str
    baseline: str | None = None
    plan: dict[str, object] | None = None


def methods(epochs: int) -> list[Method]:
    """Return the table's rows: what needs no lists, allRank's own model, the paper's recipe, and our ranker."""
    rows = [
        Method("CLIP", "clip"),
        Method("CSLS", "csls"),
        Method("inverted softmax", "inverted_softmax"),
        Method("CCA", "cca"),
        Method("DCCA", "dcca"),
        Method("CMPM", "cmpm"),
        Method("VSE++", "vsepp"),
    ]
    recipe = {"features": "concat", "epochs": epochs, "patience": epochs}
    if importlib.util.find_spec("allrank"):
        rows.append(Method("allRank, NeuralNDCG", plan={**recipe, "ranker": "allrank", "loss": "neuralndcg"}))
    for label in ("LambdaRank", "NeuralNDCG", "ListNet", "RankNet"):
        rows.append(Method(label, plan={**recipe, "loss": label.lower()}))
    rows.append(Method("ours, ListNet", plan={"loss": "listnet", "epochs": min(epochs, 20)}))
    return rows


def stage_of(lists: CandidateLists) -> FirstStage:
    """Return mined lists as what a ranking is evaluated on: relevant is what their labels say, nothing else."""
    relevant = torch.from_numpy((lists.labels > 0).sum(axis=1).astype(np.int64))
    return FirstStage(lists, relevant, torch.full((len(lists),), torch.inf, dtype=torch.float64), lists.length)


def scorer(
    method: Method, data: EmbeddingSet, direction: Direction, protocol: str, seed: int, device: str
) -> tuple[Callable[[ListBatch], torch.Tensor], np.ndarray]:
    """Train a method; return what scores a batch, and its query bank."""
    bank = np.asarray(data.queries(direction)[choose_bank(data, direction, seed=seed)])
    has_val = bool((data.images["split"] == "val").any())
    validation = first_stage(data, direction, "val") if has_val else None
    if method.baseline is not None:
        return baselines.get(method.baseline).fit(data, direction, seed=seed, validation=validation).score, bank
    plan = settings.parse({"device": device, **(method.plan or {}), "seed": seed})
    own = plan.features == "full"
    lists = mine(
        data,
        direction,
        negatives=NEGATIVES,
        pool=len(data.candidate_rows(direction, "test")) if own else POOL,
        protocol="natural" if own else protocol,
        seed=seed,
    )
    trained = train(data, lists, plan, validation=validation)
    return trained.model, trained.bank


def trial(
    method: Method, data: EmbeddingSet, direction: Direction, protocol: str, seed: int, device: str, kept: Path
) -> pd.DataFrame:
    """Train a method and return its metrics for each test list; what is kept as `kept` is read instead."""

    def make() -> pd.DataFrame:
        # The same test lists for every method and seed: a row differs from another in its ranking alone.
        stage = stage_of(mine(data, direction, "test", negatives=NEGATIVES, pool=POOL, protocol=protocol, seed=0))
        model, bank = scorer(method, data, direction, protocol, seed, device)
        near = neighbours(data.candidates(direction), bank)
        tensors = ListTensors.gather(data, stage.lists, near, pick_device(device), in_bank=False)
        return as_frame(stage.lists.query, {"ranker": per_query(score_lists(model, tensors), stage)})

    identity = {
        "method": [method.label, method.baseline, method.plan],
        "fingerprint": data.fingerprint,
        "direction": direction,
        "protocol": protocol,
        "seed": seed,
    }
    return keep(kept, identity, make)


def run(
    data: EmbeddingSet, rows: list[Method], seeds: int, out: Path, tracking: Path | None, device: str = "auto"
) -> dict[tuple[str, str], pd.DataFrame]:
    """Fill the table for each protocol and direction: mean and standard deviation over seeds, p against CLIP.

    Raises
    ------
    UserError
        If the set has no test split, or too few candidates for pools of 200.
    """
    for direction in DIRECTIONS:
        for split in ("train", "test"):
            found = len(data.candidate_rows(direction, split))
            if found < NEGATIVES + 2:
                raise UserError(
                    f"{data.name}: its {split} split has {found} candidates {direction}; the recipe's lists of "
                    f"{NEGATIVES + 1} need more. Give the split more items."
                )
    tables: dict[tuple[str, str], pd.DataFrame] = {}
    for protocol in PROTOCOLS:
        for direction in DIRECTIONS:
            gathered = {}
            for method in rows:
                name = "-".join(method.label.replace(",", "").replace("++", "pp").split())
                frames = []
                for seed in range(seeds):
                    kept = out / "trials" / f"{protocol}-{direction}-{name}-{seed}.parquet"
                    frames.append((seed, trial(method, data, direction, protocol, seed, device, kept)))
                gathered[method.label] = Row.gather(frames, "ranker")
                print(f"{protocol} {direction}: {method.label}", file=sys.stderr, flush=True)
            table = as_table(gathered, ["CLIP"], direction)
            for place, metric in enumerate(SHOWN[:3]):
                table[f"paper's {metric}"] = [
                    PUBLISHED[label][direction][place] if label in PUBLISHED else np.nan for label in table[direction]
                ]
            with replacing(out / f"{protocol}-{direction}.csv") as path:
                table.to_csv(path, index=False, float_format="%.6g")
            tables[protocol, direction] = table
            for line in table.to_dict("records"):
                _track(tracking, data, protocol, direction, {str(k): v for k, v in line.items()}, seeds)
    return tables


def _track(
    folder: Path | None, data: EmbeddingSet, protocol: str, direction: str, line: dict[str, object], seeds: int
) -> None:
    tracker = Tracker(folder, say=lambda text: print(text, file=sys.stderr))
    label = str(line[direction])
    tracker.start(
        f"paper {data.name}",
        f"{label}, {protocol}, {direction}",
        {"method": label, "protocol": protocol, "direction": direction, "seeds": seeds, "dataset": data.name},
        {"method": label, "protocol": protocol, "direction": direction},
        dataset=(data.name, data.fingerprint),
    )
    tracker.finish({metric_key(name): float(line[name]) for name in SHOWN})  # type: ignore[arg-type]


def main(arguments: list[str] | None = None) -> None:
    """Fill and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.paper", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="an embedding set with train and test splits")
    parser.add_argument("--full", action="store_true", help="the recipe to the letter: 100 epochs, 5 seeds")
    parser.add_argument("--epochs", type=int, help="of the trainings on lists (default 3)")
    parser.add_argument("--seeds", type=int, help="(default 1)")
    parser.add_argument("--out", type=Path, help="by default runs/paper-DATA")
    parser.add_argument("--mlruns", type=Path, default=Path("mlruns"))
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args(arguments)
    epochs = chosen.epochs or (100 if chosen.full else 3)
    seeds = chosen.seeds or (5 if chosen.full else 1)
    try:
        data = EmbeddingSet.open(chosen.data)
        out = chosen.out or Path("runs") / f"paper-{data.name}"
        tables = run(data, methods(epochs), seeds, out, chosen.mlruns, chosen.device)
    except UserError as error:
        print(f"paper: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    console = Console(width=None if sys.stdout.isatty() else 140)
    headings = {"t2i": "text to image (the paper's columns text)", "i2t": "image to text (its columns image)"}
    for (protocol, direction), table in tables.items():
        shown = Table(
            title=f"{data.name}, protocol {protocol}, {headings[direction]}; %",
            caption=f"Lists of {NEGATIVES + 1} from pools of {POOL}; {epochs} epochs, {seeds} seeds. "
            "The paper's figures are of Flickr30K. How to read them: docs/reading-the-table.md",
        )
        for column in table.columns:
            shown.add_column(column, justify="left" if column in DIRECTIONS else "right", no_wrap=True)
        for cells in cells_of(table):
            shown.add_row(*cells)
        console.print(shown)


if __name__ == "__main__":
    main()
