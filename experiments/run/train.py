"""One training from lists to report: mine, fit, evaluate, save, track."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from experiments.report.page import write_report
from experiments.report.plots import plot_reliability, plot_run
from experiments.results.names import run_name
from experiments.results.result import Result, rows_in
from experiments.run import procedure
from experiments.run.card import card
from experiments.run.lists import kept_or_mined
from experiments.run.procedure import Fitted, Plan
from experiments.run.tracking import Tracker, metric_key
from experiments.run.versions import code_version, versions
from rank_xmodal import losses
from rank_xmodal.data.candidate_lists import CandidateLists
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.devices import pick_device
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.judging import RANKER, SHOWN
from rank_xmodal.files import read_json, replacing, sha256, write_json
from rank_xmodal.retrieval.gallery import CLIP, has_split, rank_gallery
from rank_xmodal.scorers import ScorerSettings
from rank_xmodal.scorers.folder import FILES, read_facts, save
from rank_xmodal.training.watch import Watch


def run_training(
    data: EmbeddingSet,
    direction: Direction,
    settings: ScorerSettings,
    out: Path,
    *,
    lists: CandidateLists | None = None,
    tracking: Path | None = Path("mlruns"),
    overwrite: bool = False,
    say: Callable[[str], None] = print,
    on_step: Callable[[int, int, int], None] = lambda epoch, step, steps: None,
) -> dict[str, Any]:
    """Train a ranker into the folder `out` and return its report on the test split (empty where there is none).

    Raises
    ------
    UserError
        If `out` holds another ranker and `overwrite` is false, or as mining and training.
    """
    identity = {
        "settings": settings.model_dump(mode="json"),
        "direction": direction,
        "fingerprint": data.fingerprint,
        "lists_given": sha256(lists.query, lists.candidates, lists.labels) if lists else None,
    }
    found = _finished(out, identity, overwrite, say)
    if found is not None:
        return found
    _drop_foreign_checkpoint(out, identity, overwrite)
    prepared = procedure.plan(data, direction, settings, lists=lists, mine=kept_or_mined(say))
    say(f"{run_name(settings, direction)}: {_what_from(prepared)}")

    tracker = Tracker(tracking, say)
    run_file = out / "checkpoint.run"  # the MLflow run of an unfinished training, to go on with
    known = run_file.read_text().strip() if run_file.is_file() and (out / "checkpoint").is_dir() else None
    tracker.start(
        experiment=data.name,
        name=run_name(settings, direction),
        params=_params(data, direction, settings, prepared),
        tags=_tags(data, direction, settings),
        dataset=(data.name, data.fingerprint),
        run_id=known,
    )
    if tracker.run_id:
        out.mkdir(parents=True, exist_ok=True)
        run_file.write_text(tracker.run_id)

    def on_epoch(figures: dict[str, float]) -> None:
        tracker.epoch(figures)
        parts = [f"epoch {int(figures['epoch']):3d}"]
        parts += [f"{key} {figures[key]:.4f}" for key in ("loss",) if key in figures]
        parts += [f"val {k} {100 * figures[f'val_{k}']:.2f}" for k in ("R@1", "MRR") if f"val_{k}" in figures]
        say("  " + "  ".join(parts))

    try:
        fitted = procedure.fit(
            data, direction, settings, prepared, refit=lists is None, say=say,
            watch=Watch(on_epoch=on_epoch, on_step=on_step, checkpoint=out / "checkpoint"),
        )  # fmt: skip
        report = _finish(data, direction, settings, out, fitted, identity, prepared, tracker)
    except KeyboardInterrupt:
        tracker.finish(status="KILLED")
        raise
    except BaseException:
        tracker.finish(status="FAILED")
        raise
    run_file.unlink(missing_ok=True)
    return report


def _finished(
    out: Path, identity: dict[str, Any], overwrite: bool, say: Callable[[str], None]
) -> dict[str, Any] | None:
    """Return the report of the same training where `out` holds it already."""
    if not (out / "config.json").is_file():
        return None
    try:
        facts = read_facts(out)
    except UserError:
        if overwrite:
            return None
        raise
    if all(facts.get(key) == value for key, value in identity.items()):
        say(f"{out}: already trained with these settings on this data; reading its report.")
        return facts.get("test") or {}
    if not overwrite:
        raise UserError(
            f"{out}: holds a ranker trained with other settings or on other data. "
            "Choose another --out, or replace it with --overwrite."
        )
    return None


def _drop_foreign_checkpoint(out: Path, identity: dict[str, Any], overwrite: bool) -> None:
    unfinished = out / "checkpoint" / "state.json"
    if overwrite and unfinished.is_file():
        facts = read_json(unfinished)
        if any(facts[key] != value for key, value in identity.items() if key in facts):
            shutil.rmtree(unfinished.parent)  # of another training; one's own goes on


def _what_from(prepared: Plan) -> str:
    """Say what a fit learns from and is chosen by."""
    said = []
    if prepared.parts:
        lists = prepared.parts[0].lists
        said.append(f"{prepared.lists:,} {lists.info.get('protocol', '')} lists of {lists.length}")
    if prepared.validation is None:
        said.append("no validation split: the last epoch is kept" if prepared.parts else "no validation split")
    else:
        said.append(f"{len(prepared.validation.lists):,} to validate")
    return ", ".join(said)


def _finish(
    data: EmbeddingSet,
    direction: Direction,
    settings: ScorerSettings,
    out: Path,
    fitted: Fitted,
    identity: dict[str, Any],
    prepared: Plan,
    tracker: Tracker,
) -> dict[str, Any]:
    result = None
    if has_split(data, direction, "test"):
        gallery = rank_gallery(data, direction, "test")
        result = Result.of(fitted.stack, data, gallery, pick_device(settings.device), fitted.calibration)
        with replacing(out / "test.parquet") as part:
            result.table().to_parquet(part, index=False)
    report = result.report if result else {}
    facts = {
        **identity,
        "trained_on": list(fitted.trained_on),
        "dataset": data.name,
        "encoder": {key: data.meta.get(key) for key in ("encoder", "pretrained", "weights_sha256")},
        "lists": prepared.parts[0].lists.info if prepared.parts else None,
        "best_epoch": fitted.best_epoch,
        "calibration": fitted.calibration.as_dict() if fitted.calibration else None,
        "history": fitted.history,
        "versions": versions(),
        "mlflow_run": tracker.run_id,
        "test": report,
    }
    save(out, fitted.stack, facts, card(data, direction, settings, fitted, report, out))
    if result is not None:
        write_json(out / "test.json", report)
        write_report(out / "report.html", out.resolve().name, data, read_json(out / "config.json"), result)
    if tracker.run_id is not None:  # else nobody to log the pictures for, and drawing takes most of a second
        _log(tracker, data, direction, settings, out, fitted, report)
    return report


def _log(
    tracker: Tracker,
    data: EmbeddingSet,
    direction: Direction,
    settings: ScorerSettings,
    out: Path,
    fitted: Fitted,
    report: dict[str, Any],
) -> None:
    """Close the MLflow run with its figures, pictures and files."""
    title = f"{data.name}: {run_name(settings, direction)}"
    with tempfile.TemporaryDirectory() as folder:
        pictures = [Path(folder) / "run.png"]
        plot_run(fitted.history, report, title, pictures[0])
        if "calibration" in report:
            pictures.append(Path(folder) / "reliability.png")
            plot_reliability(report["calibration"], title, pictures[-1])
        dumped = Path(folder) / "settings.yaml"
        dumped.write_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
        files = [*FILES, "test.json", "test.parquet", "report.html"]
        artifacts = [out / name for name in files if (out / name).is_file()]
        tracker.finish(_final(report), [*artifacts, *pictures, dumped])


def _final(report: dict[str, Any]) -> dict[str, float]:
    """Return a report's figures as MLflow names them: the run's under test/, before the others in its charts' order."""
    if not report:
        return {}
    groups = {row: "test" if row == RANKER else f"test_{row}" for row in rows_in(report)}
    final = {f"{group}/{metric_key(name)}": report[row][name] for row, group in groups.items() for name in SHOWN}
    final["gain/R1"] = report[RANKER]["R@1"] - report[CLIP]["R@1"]
    final["test/ceiling"] = report["ceiling"]
    if "calibration" in report:
        final.update({f"test_calibration/{name}": report["calibration"][name] for name in ("ECE", "Brier", "AP")})
    return final


def _params(data: EmbeddingSet, direction: Direction, settings: ScorerSettings, prepared: Plan) -> dict[str, Any]:
    flat = settings.model_dump(mode="json")
    if "loss" in flat:
        flat.update({f"loss_params.{k}": v for k, v in flat.pop("loss_params").items()})
        for parameter in losses.REGISTRY[flat["loss"]].parameters:
            flat.setdefault(f"loss_params.{parameter.name}", parameter.default)
        flat |= {"training_lists": prepared.lists, "list_length": prepared.parts[0].lists.length}
    return {
        **flat,
        "direction": direction,
        "dataset": data.name,
        "dataset_fingerprint": data.fingerprint,
        "encoder": data.meta.get("encoder", "unknown"),
    }


def _tags(data: EmbeddingSet, direction: Direction, settings: ScorerSettings) -> dict[str, str]:
    told = {key: str(getattr(settings, key)) for key in ("scorer", "on", "loss", "features") if hasattr(settings, key)}
    return {
        **told,
        "direction": direction,
        "dataset": data.name,
        "seed": str(settings.seed),
        "mlflow.source.name": "rank-xmodal train",
        "mlflow.source.git.commit": code_version(),
    }
