"""CLIP and CSLS as MLflow runs of their own, so that charts and tables show them beside the trained ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.results.result import metrics_in, reference, row_label
from experiments.run.tracking import KIND, Tracker, has_finished, metric_key
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.files import locked, sha256
from rank_xmodal.retrieval.gallery import CLIP
from rank_xmodal.scorers.stack import COMPARED


def figures_of(report: dict[str, Any], row: str, group: str = "test") -> dict[str, float]:
    """Return a row's figures as MLflow names those of a run itself: test/R1 and its kin."""
    return {f"{group}/{metric_key(name)}": report[row][name] for name in metrics_in(report)}


def standing_of(report: dict[str, Any], row: str) -> dict[str, float]:
    """Return how far a row is above what all are held against, and what none can exceed."""
    gain = report[row]["R@1"] - report[reference(report)]["R@1"]
    return {"gain/R1": round(gain, 9), "test/ceiling": report["ceiling"]}


def log_references(
    folder: Path,
    data: EmbeddingSet,
    direction: str,
    report: dict[str, Any],
    trained_on: Sequence[str],
    say: Callable[[str], None] = print,
) -> None:
    """Log what a run was compared with into the store in `folder`: once a set, direction, depth and query bank.

    Nothing is logged where the run's own space finds the candidates: those rows are of its lists alone. Whatever fails
    is told and does no harm.
    """
    if not report or report.get("first_stage", CLIP) != CLIP or reference(report) != CLIP:
        return
    for scorer in COMPARED:
        row = scorer.name
        told = {
            "scorer": row, "direction": direction, "dataset": data.name, "dataset_fingerprint": data.fingerprint,
            "split": report["split"], "candidates": report["candidates"],
        }  # fmt: skip
        if scorer().needs.neighbours:  # whose query bank is of all that a run was trained on
            told["query_bank"] = " and ".join(trained_on)
        key = sha256(json.dumps([told, report.get("labels_fingerprint")]).encode())[:16]
        try:
            with locked(folder, "logging references", wait=True):
                if not has_finished(folder, data.name, key):
                    _log(Tracker(folder, say), data, row, told, key, report)
        except (UserError, OSError) as error:
            say(f"{row_label(row)} is no MLflow run ({error}).")


def _log(
    tracker: Tracker, data: EmbeddingSet, row: str, told: dict[str, Any], key: str, report: dict[str, Any]
) -> None:
    tags = {KIND: "reference", **{name: str(told[name]) for name in ("scorer", "direction", "dataset")}}
    label, bank = row_label(row), told.get("query_bank", "train")
    name = f"{label}-{told['direction']}" + (f" ({bank})" if bank != "train" else "")
    tracker.start(data.name, name, told, tags, (data.name, data.fingerprint), key)
    note = f"{label} needs no training: what every run on this set is compared with."
    if "query_bank" in told:
        note += f" Its query bank is that of rankers trained on {bank}."
    tracker.finish({**figures_of(report, row), **standing_of(report, row)}, note=note)
