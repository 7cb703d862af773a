"""The paper's Table 2, every row on the same lists: ``python -m experiments.study.paper --data DATA``.

The paper's recipe, four losses, and baselines on the same frozen embeddings, all of them reordering the same 51
candidates. Three protocols: "paper", lists with a forced positive as its own table must have been made; "clean", where
the positive stands in such a list once and its siblings are not negatives; "gallery", CLIP's top 51 of the whole test
gallery, as `evaluate` and the field count. The recipe is trained on lists of the protocol, for "gallery" on clean ones.
Published figures stand beside. What is finished is kept in --out.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data_prep.mining.miner import mine
from experiments.run.lists import POOL
from experiments.run.tracking import Tracker, metric_key
from experiments.study.store import SHOWN, as_frame, keep
from experiments.study.study import Row
from rank_xmodal import scorers as baselines
from rank_xmodal.data.candidate_lists import CandidateLists
from rank_xmodal.data.embedding_set import DIRECTIONS, Direction, EmbeddingSet
from rank_xmodal.devices import pick_device
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.judging import per_query
from rank_xmodal.evaluation.significance import holm, paired_p
from rank_xmodal.files import replacing
from rank_xmodal.lists.list_tensors import ListTensors
from rank_xmodal.lists.scoring import score_lists
from rank_xmodal.retrieval.gallery import RankedGallery, rank_gallery
from rank_xmodal.retrieval.query_bank import choose_bank, neighbours
from rank_xmodal.scorers import settings
from rank_xmodal.scorers.context_aware.ranker import ListBatch
from rank_xmodal.training.loop import train

PROTOCOLS = ("paper", "clean", "gallery")
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
    rows.append(Method("ours, ListNet", plan={"loss": "listnet", "epochs": _own(epochs)}))
    return rows


def _own(epochs: int) -> int:
    return min(2 * epochs, 20)


def stage_of(lists: CandidateLists) -> RankedGallery:
    """Return mined lists as what a ranking is evaluated on: relevant is what their labels say, nothing else."""
    relevant = torch.from_numpy((lists.labels > 0).sum(axis=1).astype(np.int64))
    return RankedGallery(lists, relevant, torch.full((len(lists),), torch.inf, dtype=torch.float64), lists.length)


def test_lists(data: EmbeddingSet, direction: Direction, protocol: str) -> RankedGallery:
    """Return what every row of a protocol reorders: a row differs from another in its ranking alone."""
    if protocol == "gallery":
        return rank_gallery(data, direction, "test", depth=NEGATIVES + 1)
    return stage_of(mine(data, direction, "test", negatives=NEGATIVES, pool=POOL, protocol=protocol, seed=0))


def scorer(
    method: Method, data: EmbeddingSet, direction: Direction, lists: str, seed: int, device: str
) -> tuple[Callable[[ListBatch], torch.Tensor], np.ndarray]:
    """Train a method, the recipe on these lists; return what scores a batch, and its query bank."""
    bank = np.asarray(data.queries(direction)[choose_bank(data, direction, seed=seed)])
    has_val = bool((data.images["split"] == "val").any())
    validation = rank_gallery(data, direction, "val") if has_val else None
    if method.baseline is not None:
        return baselines.get(method.baseline).fit(data, direction, seed=seed, validation=validation).score, bank
    plan = settings.parse({"device": device, **(method.plan or {}), "seed": seed})
    mined = mine(
        data,
        direction,
        negatives=NEGATIVES,
        pool=len(data.candidate_rows(direction, "test")) if lists == "natural" else POOL,
        protocol=lists,
        seed=seed,
    )
    trained = train(data, mined, plan, validation=validation)
    return trained.model, trained.bank


def trials(
    method: Method,
    data: EmbeddingSet,
    direction: Direction,
    protocols: tuple[str, ...],
    seed: int,
    device: str,
    folder: Path,
) -> Iterator[pd.DataFrame]:
    """Train a method once for all protocols that it can serve; yield its metrics for each test list, by protocol.

    What stands in `folder` is read instead.
    """
    train_on = functools.cache(lambda lists: scorer(method, data, direction, lists, seed, device))
    recipe = (method.plan or {}).get("features") == "concat"
    name = "-".join(method.label.replace(",", "").replace("++", "pp").split())
    for protocol in protocols:
        lists = ("paper" if protocol == "paper" else "clean") if recipe else "natural"

        def make(protocol: str = protocol, lists: str = lists) -> pd.DataFrame:
            stage = test_lists(data, direction, protocol)
            model, bank = train_on(lists)
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
        yield keep(folder / f"{protocol}-{direction}-{name}-{seed}.parquet", identity, make)


def run(
    data: EmbeddingSet,
    rows: list[Method],
    protocols: tuple[str, ...],
    seeds: int,
    out: Path,
    tracking: Path | None,
    device: str = "auto",
) -> pd.DataFrame:
    """Fill the table: one line for each protocol, direction and method.

    Returns
    -------
    DataFrame
        protocol, direction, method, seeds; "R@1", "R@5", "R@10", "MRR": mean over seeds in %, each with its standard
        deviation (n - 1, NaN for one seed) as "R@1 std" ...; "p CLIP": of R@1, paired randomisation test over the
        queries, Holm-corrected within protocol and direction; "R@1 published" ..., NaN where the paper has no such row.
        Also written to `out`, as table.csv.

    Raises
    ------
    UserError
        If the set has no test split, or too few candidates for lists of 51.
    """
    for direction in DIRECTIONS:
        for split in ("train", "test"):
            size = len(data.candidate_rows(direction, split))
            if size < NEGATIVES + 2:
                raise UserError(
                    f"{data.name}: its {split} split has {size} candidates {direction}; the recipe's lists of "
                    f"{NEGATIVES + 1} need more. Give the split more items."
                )
    gathered: dict[tuple[str, Direction], dict[str, Row]] = {}
    for direction in DIRECTIONS:
        for method in rows:
            frames: dict[str, list[tuple[int, pd.DataFrame]]] = {protocol: [] for protocol in protocols}
            for seed in range(seeds):
                found = trials(method, data, direction, protocols, seed, device, out / "trials")
                for protocol, frame in zip(protocols, found, strict=True):
                    frames[protocol].append((seed, frame))
            for protocol in protocols:
                row = Row.gather(frames[protocol], "ranker")
                gathered.setdefault((protocol, direction), {})[method.label] = row
            print(f"{direction}: {method.label}", file=sys.stderr, flush=True)
    lines = []
    for protocol in protocols:
        for direction in DIRECTIONS:
            block = [line_of(method.label, gathered[protocol, direction], direction) for method in rows]
            tested = [line for line in block if not np.isnan(line["p CLIP"])]
            for line, p in zip(tested, holm(np.array([line["p CLIP"] for line in tested])), strict=True):
                line["p CLIP"] = p
            lines += [{"protocol": protocol, "direction": direction, "seeds": seeds, **line} for line in block]
    for line in lines:
        _track(tracking, data, line)
    table = pd.DataFrame(lines)
    with replacing(out / "table.csv") as path:
        table.to_csv(path, index=False, float_format="%.6g")
    return table


def line_of(label: str, rows: dict[str, Row], direction: Direction) -> dict[str, Any]:
    """Return a method's figures, in the names of `run`."""
    line: dict[str, Any] = {"method": label}
    for metric in SHOWN:
        values = 100 * np.array(rows[label].by_repeat[metric])
        line[metric] = values.mean()
        line[f"{metric} std"] = values.std(ddof=1) if len(values) > 1 else np.nan
    line["p CLIP"] = np.nan
    if label != "CLIP" and "CLIP" in rows:
        pair = rows[label].by_query.align(rows["CLIP"].by_query, join="inner")
        line["p CLIP"] = paired_p(*(side.to_numpy() for side in pair))
    published = PUBLISHED.get(label, {}).get(direction, (np.nan,) * 3)
    line.update({f"{metric} published": figure for metric, figure in zip(SHOWN, published, strict=False)})
    return line


def _track(folder: Path | None, data: EmbeddingSet, line: dict[str, Any]) -> None:
    tracker = Tracker(folder, say=lambda text: print(text, file=sys.stderr))
    facts = {key: line[key] for key in ("method", "protocol", "direction", "seeds")}
    tracker.start(
        f"paper {data.name}",
        f"{line['method']}, {line['protocol']}, {line['direction']}",
        {**facts, "dataset": data.name},
        {key: str(value) for key, value in facts.items()},
        dataset=(data.name, data.fingerprint),
    )
    tracker.finish({metric_key(name): float(line[name]) for name in SHOWN})


HEADER = ("protocol", "row", "text to image", "published", "image to text", "published")


def side_by_side(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """Return the table as people read it, lines of `HEADER`: R@1 / R@5 / R@10, ours beside the paper's."""
    lines = []
    for (protocol, method), group in table.groupby(["protocol", "method"], sort=False):
        line = [str(protocol), str(method)]
        for direction in DIRECTIONS:
            row = group[group["direction"] == direction].iloc[0]
            line.append(" / ".join(_figure(row, metric) for metric in SHOWN[:3]))
            figures = [row[f"{metric} published"] for metric in SHOWN[:3]]
            line.append("" if np.isnan(figures[0]) else " / ".join(f"{x:.2f}" for x in figures))
        lines.append(tuple(line))
    return lines


def _figure(row: pd.Series, metric: str) -> str:
    spread = row[f"{metric} std"]
    return f"{row[metric]:.2f}" + ("" if np.isnan(spread) else f" ± {spread:.2f}")


def main(arguments: list[str] | None = None) -> None:
    """Fill and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.study.paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="an embedding set with train and test splits")
    parser.add_argument("--full", action="store_true", help="the recipe to the letter: 100 epochs, 5 seeds")
    parser.add_argument(
        "--baselines", action="store_true", help="the baselines and our ranker alone, under the protocol gallery alone"
    )
    parser.add_argument("--epochs", type=int, help="of the trainings on lists (default 3)")
    parser.add_argument("--seeds", type=int, help="(default 1)")
    parser.add_argument("--out", type=Path, help="by default runs/paper-DATA, or runs/baselines-DATA")
    parser.add_argument("--mlruns", type=Path, default=Path("mlruns"))
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args(arguments)
    for option in ("epochs", "seeds"):
        if (given := getattr(chosen, option)) is not None and given < 1:
            parser.error(f"--{option} {given}: must be 1 or more")
    epochs = chosen.epochs or (100 if chosen.full else 3)
    seeds = chosen.seeds or (5 if chosen.full else 1)
    try:
        data = EmbeddingSet.open(chosen.data)
        out = chosen.out or Path("runs") / f"{'baselines' if chosen.baselines else 'paper'}-{data.name}"
        rows = [row for row in methods(epochs) if not chosen.baselines or row.baseline or row.label.startswith("ours")]
        protocols = PROTOCOLS[-1:] if chosen.baselines else PROTOCOLS
        table = run(data, rows, protocols, seeds, out, chosen.mlruns, chosen.device)
    except UserError as error:
        print(f"paper: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("paper: interrupted. Run the same command to go on.", file=sys.stderr)
        raise SystemExit(130) from None
    lines = side_by_side(table)
    caption = (
        f"R@1 / R@5 / R@10: hit rates in %, lists of {NEGATIVES + 1}"
        + ("; " if chosen.baselines else f", of paper and clean from pools of {POOL} (or all, if fewer); ")
        + f"{epochs} epochs on lists, ours {_own(epochs)}; "
        + (f"mean ± standard deviation over {seeds} seeds. " if seeds > 1 else "one seed. ")
        + 'Published: on Flickr30K; the paper\'s columns "text" are text to image. How to read them: '
        "docs/reading-the-table.md"
    )
    shown = Table(*HEADER, title=escape(f"{data.name}: the paper's Table 2"), caption=caption)
    for number, cells in enumerate(lines):
        shown.add_row(*cells, end_section=number + 1 < len(lines) and lines[number + 1][0] != cells[0])
    Console(width=None if sys.stdout.isatty() else 150).print(shown)
    with replacing(out / "table.md") as path:
        page = [HEADER, ("---",) * len(HEADER), *lines]
        path.write_text("".join(f"| {' | '.join(row)} |\n" for row in page) + f"\n{caption}\n", encoding="utf-8")
    print(f"{out / 'table.csv'}, {out / 'table.md'}: the same with p-values, and as Markdown")


if __name__ == "__main__":
    main()
