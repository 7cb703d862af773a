"""Cross-validate the default settings on a small set: ``python -m experiments.folds --data data/coco500``.

Every image is in the test fold once per permutation; the other folds are trained on, without a validation split. The
gallery is the test fold. Splits that the set itself has don't count. Prints the mean R@1 / R@5 / R@10 of each row.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep.mining.miner import mine
from rank_xmodal import settings
from rank_xmodal.embedding_set import DIRECTIONS, EmbeddingSet
from rank_xmodal.evaluation import evaluate, first_stage
from rank_xmodal.query_bank import neighbours
from rank_xmodal.ranker_folder import pick_device
from rank_xmodal.training import train

LOSSES = ("lambdarank", "neuralndcg", "listnet", "ranknet")
_SHOWN = ("R@1", "R@5", "R@10")


def fold_of(data: EmbeddingSet, fold: int, folds: int, permutation: int) -> EmbeddingSet:
    """Return the set with one fold of its images, and their captions, as test and the rest as train."""
    order = np.random.default_rng(permutation).permutation(len(data.images))
    size = len(order) // folds
    images = np.full(len(order), "train", dtype=object)
    images[order[fold * size : (fold + 1) * size]] = "test"
    texts = np.full(len(data.texts), "train", dtype=object)
    texts[data.relevance["text"]] = images[data.relevance["image"]]
    meta = {**data.meta, "fingerprint": f"{data.fingerprint} fold {fold} of {folds}, permutation {permutation}"}
    return replace(data, images=data.images.assign(split=images), texts=data.texts.assign(split=texts), meta=meta)


def main(arguments: list[str] | None = None) -> None:
    """Run all folds and print a line for each direction and row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--permutations", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    chosen = parser.parse_args(arguments)
    data = EmbeddingSet.open(chosen.data)
    for direction in DIRECTIONS:
        found = defaultdict(list)
        for permutation in range(chosen.permutations):
            for fold in range(chosen.folds):
                part = fold_of(data, fold, chosen.folds, permutation)
                stage = first_stage(part, direction, "test")
                for loss in LOSSES:
                    seed = permutation * chosen.folds + fold
                    plan = settings.read(None, chosen.set, {"loss": loss, "seed": seed})
                    pool = len(part.candidate_rows(direction, "test"))
                    lists = mine(part, direction, pool=pool, protocol="natural", seed=seed)
                    trained = train(part, lists, plan)
                    near = neighbours(part.candidates(direction), trained.bank)
                    report, _ = evaluate(trained.model, part, stage, near, pick_device(plan.device))
                    found[loss].append([report["ranker"][name] for name in _SHOWN])
                for row in ("clip", "csls"):
                    found[row].append([report[row][name] for name in _SHOWN])
        for row in ("clip", "csls", *LOSSES):
            print(direction, f"{row:12}", " / ".join(f"{100 * x:.1f}" for x in np.mean(found[row], axis=0)), flush=True)


if __name__ == "__main__":
    main()
