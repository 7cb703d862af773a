"""What MLflow is told of a training: parameters and tags when it begins, and all of its result when it ends."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from experiments.report.plots import plot_reliability, plot_run
from experiments.results.names import run_name
from experiments.results.result import rows_in
from experiments.run.card import figures, table
from experiments.run.logged_model import can_be_logged, example, log_model
from experiments.run.procedure import Plan, scorer_of
from experiments.run.references import figures_of, log_references, standing_of
from experiments.run.tracking import Tracker
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.evaluation.judging import RANKER
from rank_xmodal.scorers import ScorerSettings
from rank_xmodal.scorers.folder import FILES

OF_TEST = ("test.json", "test.parquet", "report.html")
"""Files of a run that was tested, beside those of its ranker."""


def close(
    tracker: Tracker,
    data: EmbeddingSet,
    direction: Direction,
    settings: ScorerSettings,
    out: Path,
    facts: dict[str, Any],
    report: dict[str, Any],
    say: Callable[[str], None],
) -> None:
    """Close the MLflow run with its figures, pictures, files and model; log beside it what it was compared with."""
    if tracker.folder is not None and not tracker.failed:  # first: one that is killed here is gone on with, all of it
        log_references(tracker.folder, data, direction, report, facts.get("trained_on") or ["train"], say)
    title = f"{data.name}: {run_name(settings, direction)}"
    history, more = facts.get("history") or [], None
    if can_be_logged(scorer_of(settings)):
        more = functools.partial(log_model, folder=out, given=example(data, direction))
    with tempfile.TemporaryDirectory() as folder:
        pictures = [Path(folder) / "run.png"]
        plot_run(history, report, title, pictures[0])
        if "calibration" in report:
            pictures.append(Path(folder) / "reliability.png")
            plot_reliability(report["calibration"], title, pictures[-1])
        dumped = Path(folder) / "settings.yaml"
        dumped.write_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
        artifacts = [out / name for name in (*FILES, *OF_TEST) if (out / name).is_file()]
        # The table first: the page shows the first few lines.
        note = "\n".join([*table(report), figures(report)[0]]) if report else ""
        tracker.finish(_final(report), [*artifacts, *pictures, dumped], history=history, note=note, more=more)


def _final(report: dict[str, Any]) -> dict[str, float]:
    """Return a report's figures as MLflow names them: the run's under test/, before the others in its charts' order."""
    if not report:
        return {}
    final: dict[str, float] = {}
    for row in rows_in(report):
        final |= figures_of(report, row, "test" if row == RANKER else f"test_{row}")
    final |= standing_of(report, RANKER)
    if "calibration" in report:
        final.update({f"test_calibration/{name}": report["calibration"][name] for name in ("ECE", "Brier", "AP")})
    return final


def params_of(data: EmbeddingSet, direction: Direction, settings: ScorerSettings, prepared: Plan) -> dict[str, Any]:
    """Return a run's parameters: its settings, and what it was trained on.

    Of the loss's own those that were set: a comparison of runs would begin with what the other losses don't have.
    """
    flat = settings.model_dump(mode="json")
    if "loss" in flat:
        flat.update({f"loss_params.{k}": v for k, v in flat.pop("loss_params").items()})
        flat |= {"training_lists": prepared.lists, "list_length": prepared.parts[0].lists.length}
    return {
        **flat,
        "direction": direction,
        "dataset": data.name,
        "dataset_fingerprint": data.fingerprint,
        "encoder": data.meta.get("encoder", "unknown"),
    }


def tags_of(data: EmbeddingSet, direction: Direction, settings: ScorerSettings) -> dict[str, str]:
    """Return a run's tags: what runs are looked for by."""
    told = {key: str(getattr(settings, key)) for key in ("scorer", "on", "loss", "features") if hasattr(settings, key)}
    return {
        **told,
        "direction": direction,
        "dataset": data.name,
        "seed": str(settings.seed),
        "mlflow.source.name": "rank-xmodal train",
    }
