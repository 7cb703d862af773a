"""COCO's 1K protocol beside its 5K one.

5K ranks the test split as a whole. 1K cuts its 5,000 images into five consecutive folds of 1,000, each a gallery of its
own with all its captions, and gives the mean over the folds: what older papers on COCO report, and much the easier
task. A ranker and what it is compared with are evaluated under both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from rich.table import Table

from experiments.results.evaluate import evaluate_run
from experiments.results.result import row_label, rows_in
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.metrics import DEFAULT
from rank_xmodal.retrieval.gallery import CLIP, DEPTH
from rank_xmodal.scorers.chance import Chance
from rank_xmodal.use.reranker import Reranker

COCO_IMAGES = 5_000
FOLD_SIZE = 1_000

_ELSEWHERE = "other fold"


def folds_of_test(data: EmbeddingSet, fold_size: int) -> list[EmbeddingSet]:
    """Cut the test split into consecutive folds of `fold_size` images, in row order, with all their captions.

    Each fold is the set with that fold alone as its test split; train and val stay as they are.

    Raises
    ------
    UserError
        If the split is empty or is no two or more whole folds.
    """
    images = np.asarray(data.candidate_rows("t2i", "test"))
    if fold_size < 1 or len(images) % fold_size or len(images) < 2 * fold_size:
        raise UserError(
            f"--fold-size {fold_size}: the test split of {data.root or data.name} has {len(images):,} images; they "
            "must be two or more whole folds. Name a divisor of that number."
        )
    texts = (data.texts["split"] == "test").to_numpy()
    pairs = data.relevance
    folds = []
    for place, start in enumerate(range(0, len(images), fold_size)):
        own = np.zeros(len(data.images), dtype=bool)
        own[images[start : start + fold_size]] = True
        told = np.zeros(len(data.texts), dtype=bool)
        told[pairs["text"].to_numpy()[own[pairs["image"].to_numpy()]]] = True
        image_splits = data.images["split"].to_numpy(dtype=object, copy=True)
        image_splits[images] = np.where(own[images], "test", _ELSEWHERE)
        text_splits = data.texts["split"].to_numpy(dtype=object, copy=True)
        text_splits[texts] = np.where(told[texts], "test", _ELSEWHERE)
        of = f"test fold {place} of {len(images) // fold_size}"
        folds.append(
            replace(
                data,
                images=data.images.assign(split=image_splits),
                texts=data.texts.assign(split=text_splits),
                meta={**data.meta, "fingerprint": f"{data.meta.get('fingerprint')} {of}"},
                cut_of=data.whole,
            )
        )
    return folds


def coco_1k_folds(data: EmbeddingSet) -> list[EmbeddingSet]:
    """Return the five folds of COCO's 1K protocol, 1,000 images each.

    Raises
    ------
    UserError
        If the test split hasn't 5,000 images.
    """
    found = int((data.images["split"] == "test").sum())
    if found != COCO_IMAGES:
        raise UserError(
            f"{data.root or data.name}: its test split has {found:,} images; COCO's 1K protocol is over Karpathy's "
            f"{COCO_IMAGES:,}. Embed the whole of coco, or cut this split by another --fold-size."
        )
    return folds_of_test(data, FOLD_SIZE)


def compare(
    data: EmbeddingSet, reranker: Reranker, *, fold_size: int = FOLD_SIZE, depth: int | None = None
) -> dict[str, Any]:
    """Evaluate a ranker, CLIP and CSLS over the folds and over the whole gallery.

    Where the sides of the set are not aligned, a random order stands in for CLIP and CSLS.

    Returns
    -------
    dict
        direction, split, depth, first_stage (who finds the lists), fold_size and fingerprint, of the set; under "folds"
        (the mean over them) and "whole": the rows, each metric's mean over queries, and the ceiling.

    Raises
    ------
    UserError
        If the ranker is of another encoder, the test split can't be cut so, or a fold's gallery is smaller than the
        depth: its lists would be shorter than those of the whole.
    """
    folds = coco_1k_folds(data) if fold_size == FOLD_SIZE else folds_of_test(data, fold_size)
    reranker.check_made_for(data, "the ranker")
    direction: Direction = reranker.facts["direction"]
    smallest = min(len(part.candidate_rows(direction, "test")) for part in folds)
    depth = depth or DEPTH  # the same of folds and of the whole
    if depth > smallest:
        raise UserError(
            f"--depth {depth}: a fold's gallery holds {smallest:,} candidates, the whole more; lists of different "
            f"length can't be compared. Use --depth {smallest} or less."
        )

    def figures(report: Mapping[str, Any]) -> dict[str, Any]:
        rows = {row: {name: float(report[row][name]) for name in DEFAULT} for row in rows_in(report)}
        return {**rows, "ceiling": float(report["ceiling"])}

    by_fold = [figures(evaluate_run(reranker, part, "test", depth=depth).report) for part in folds]
    whole = evaluate_run(reranker, data, "test", depth=depth).report
    rows = [row for row in by_fold[0] if row != "ceiling"]
    mean: dict[str, Any] = {
        row: {name: float(np.mean([fold[row][name] for fold in by_fold])) for name in DEFAULT} for row in rows
    }
    mean["ceiling"] = float(np.mean([fold["ceiling"] for fold in by_fold]))
    return {
        "direction": direction,
        "split": "test",
        "depth": depth,
        "first_stage": whole.get("first_stage", CLIP),
        "fold_size": fold_size,
        "fingerprint": data.fingerprint,
        "folds": mean,
        "whole": figures(whole),
    }


def table(report: dict[str, Any], images: int, title: str) -> Table:
    """Return what `compare` found as people read it; `images` are those of the whole test split."""
    count = images // report["fold_size"]
    chance = ""
    if Chance.name in report["whole"]:  # which in all of a gallery would find less
        chance = f" {row_label(Chance.name).capitalize()}: of these lists, not of a gallery."
    shown = Table(
        title=f"{title}, {report['direction']}, top {report['depth']} reordered; %",
        caption="R@K is the hit rate. Ceiling: share of queries with something relevant in the list that is found by "
        f"{row_label(report['first_stage'])}; the others are misses.{chance} {report['fold_size']:,}: mean over "
        f"{count} folds of that many images with their captions; {images:,}: the whole test split. The two galleries' "
        "figures can't be compared with each other.",
    )
    for column in ("images", "row", *DEFAULT, "ceiling"):
        shown.add_column(column, justify="left" if column == "row" else "right", no_wrap=True)
    for part, size in (("folds", report["fold_size"]), ("whole", images)):
        for row in (row for row in report[part] if row != "ceiling"):
            shares = [*(report[part][row][name] for name in DEFAULT), report[part]["ceiling"]]
            shown.add_row(f"{size:,}", row_label(row), *(f"{100 * share:.2f}" for share in shares))
    return shown
