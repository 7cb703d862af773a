"""One training from lists to report: mine, fit, evaluate, save, track."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.report.page import report_of_run, write_report
from experiments.results.names import run_name
from experiments.results.result import Result
from experiments.run import procedure
from experiments.run.card import card
from experiments.run.lists import kept_or_mined
from experiments.run.logged_run import OF_TEST, close, params_of, tags_of
from experiments.run.procedure import Fitted, Plan
from experiments.run.tracking import Tracker, give_up
from experiments.run.unfinished import Unfinished
from experiments.run.versions import versions
from rank_xmodal.data.candidate_lists import CandidateLists
from rank_xmodal.data.checks import check_captions
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.devices import pick_device
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.class_gallery import CLASS_MAP
from rank_xmodal.files import held, read_json, replacing, sha256, write_json
from rank_xmodal.retrieval.gallery import has_split
from rank_xmodal.scorers import ScorerSettings, class_of
from rank_xmodal.scorers.facts import read_facts
from rank_xmodal.scorers.folder import FILES, load, save
from rank_xmodal.scorers.stack import first_gallery
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
    untracked: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train a ranker into the folder `out` and return its report on the test split (empty where there is none).

    Interrupted, wherever that was, the same call goes on, ends as it would have, and takes up the same MLflow run.
    `untracked` is told at the very end why MLflow hasn't all of it; `say` if not given.

    Raises
    ------
    UserError
        If the set has no captions, `out` holds another ranker and `overwrite` is false, another process trains into
        it, or as mining and training.
    """
    check_captions(data)
    untracked = untracked or say
    out = Path(os.path.realpath(out))  # into what a link names; the link stays
    identity = {
        "settings": settings.model_dump(mode="json"),
        "direction": direction,
        "fingerprint": data.fingerprint,
        "lists_given": sha256(lists.query, lists.candidates, lists.labels) if lists else None,
    }
    if procedure.scorer_of(settings).needs.tokens:  # the set's fingerprint leaves them out
        identity["tokens"] = data.whole.meta.get("tokens")
    if data.labelled and any(class_of(name).learns_classes for name in (settings.scorer, settings.on)):
        identity["labels"] = data.labels_fingerprint  # which the set's fingerprint leaves out, too
    with held(out, "training into it"):
        work = Unfinished(out, identity)
        found = _finished(data, identity, work, overwrite, say)
        if found is not None:
            report: dict[str, Any] = found.get("test") or {}
            tracker = Tracker(tracking, say)
            if found.get("mlflow_run") and tracker.take_up(found["mlflow_run"]):  # what it could not be told then
                close(tracker, data, direction, settings, out, found, report, say)
            return report
        work.check(overwrite)
        prepared = procedure.plan(data, direction, settings, lists=lists, mine=kept_or_mined(out, say))
        say(f"{run_name(settings, direction)}: {_what_from(prepared, data)}")
        work.begin(tracking, data.name)
        give_up(work.dropped)
        if work.outdated:
            say("  an earlier version left this training unfinished; it begins anew")
        if work.resumed:
            say("  going on with the training that was interrupted")
        tracker = Tracker(tracking, say)
        tracker.start(
            experiment=data.name,
            name=run_name(settings, direction),
            params=params_of(data, direction, settings, prepared),
            tags=tags_of(data, direction, settings),
            dataset=(data.name, data.fingerprint),
            training=work.name,
        )
        watch = Watch(on_epoch=functools.partial(_on_epoch, tracker, say), on_step=on_step)
        try:
            fitted = procedure.fit(
                data, direction, settings, prepared, refit=lists is None, mine=kept_or_mined(out, say), say=say,
                watch=watch, keep=work.folder,
            )  # fmt: skip
            report = _finish(data, direction, settings, fitted, identity, prepared, tracker, work, say)
        except KeyboardInterrupt:
            tracker.finish(status="KILLED")
            raise
        except BaseException:
            tracker.finish(status="FAILED")
            raise
        work.remove()
    if tracker.failed:
        untracked(f"{out}: not tracked in MLflow ({tracker.failed})")
    return report


def _on_epoch(tracker: Tracker, say: Callable[[str], None], figures: dict[str, float]) -> None:
    tracker.epoch(figures)
    parts = [f"epoch {int(figures['epoch']):3d}"]
    parts += [f"{key} {figures[key]:.4f}" for key in ("loss",) if key in figures]
    parts += [f"val {k} {100 * figures[f'val_{k}']:.2f}" for k in ("R@1", "MRR") if f"val_{k}" in figures]
    say("  " + "  ".join(parts))


def _finished(
    data: EmbeddingSet, identity: dict[str, Any], work: Unfinished, overwrite: bool, say: Callable[[str], None]
) -> dict[str, Any] | None:
    """Return what config.json says of the same training where its folder holds it already, and whole."""
    out = work.out
    try:
        if work.is_ours() or not (out / "config.json").is_file():
            return None
        facts = read_facts(out)
    except UserError:
        if overwrite:
            return None
        raise
    if any(facts.get(key) != value for key, value in identity.items()):
        if overwrite:
            return None
        raise UserError(
            f"{out}: holds a ranker trained with other settings or on other data. "
            "Choose another --out, or replace it with --overwrite."
        )
    try:
        load(out)
    except UserError as error:
        say(f"{error} Training it again now.")
        return None
    say(f"{out}: already trained with these settings on this data; reading its report.")
    report: dict[str, Any] = facts.get("test") or {}
    if report.get("labels_fingerprint", "") != (data.labels_fingerprint if data.labelled else ""):
        say(f"{out}: {CLASS_MAP} is of the classes that the set had then; `rank-xmodal evaluate` takes those of today.")
    if report and not (out / "test.json").is_file():
        write_json(out / "test.json", report)
    if report and not (out / "report.html").is_file():
        report_of_run(out, data, out / "report.html", device=str(identity["settings"]["device"]))
    return facts


def _what_from(prepared: Plan, data: EmbeddingSet) -> str:
    """Say what a fit learns from and is chosen by."""
    said = []
    if prepared.parts:
        lists = prepared.parts[0].lists
        said.append(f"{prepared.lists:,} {lists.info.get('protocol', '')} lists of {lists.length}")
    if prepared.validation is None and not data.aligned:
        said.append("no lists to validate by, for nothing finds candidates yet")
    elif prepared.validation is None:
        said.append("no validation split: the last epoch is kept" if prepared.parts else "no validation split")
    else:
        said.append(f"{len(prepared.validation.lists):,} to validate")
    return ", ".join(said)


def _finish(
    data: EmbeddingSet,
    direction: Direction,
    settings: ScorerSettings,
    fitted: Fitted,
    identity: dict[str, Any],
    prepared: Plan,
    tracker: Tracker,
    work: Unfinished,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Judge, write the run's files, and close its MLflow run."""
    staged, result = work.stage(), None
    if has_split(data, direction, "test"):
        gallery = first_gallery(fitted.stack, data, direction, "test")
        result = Result.of(fitted.stack, data, gallery, pick_device(settings.device), fitted.calibration)
        with replacing(staged / "test.parquet") as part:
            result.table().to_parquet(part, index=False, write_page_checksum=True)
    report = result.report if result else {}
    facts = {
        **identity,
        "trained_on": list(fitted.trained_on),
        "dataset": data.name,
        "encoder": _encoder(data),
        "lists": prepared.parts[0].lists.info if prepared.parts else None,
        "best_epoch": fitted.best_epoch,
        "calibration": fitted.calibration.as_dict() if fitted.calibration else None,
        "history": fitted.history,
        "versions": versions(),
        "mlflow_run": tracker.run_id,
        "test": report,
    }
    save(staged, fitted.stack, facts, card(data, direction, settings, fitted, report, work.out))
    if result is not None:
        write_json(staged / "test.json", report)
        write_report(staged / "report.html", work.out.name, data, read_json(staged / "config.json"), result)
    work.publish(staged, (*FILES, *OF_TEST))
    if tracker.run_id is not None:  # else nobody to log the pictures for, and drawing takes most of a second
        close(tracker, data, direction, settings, work.out, facts, report, say)
    return report


def _encoder(data: EmbeddingSet) -> dict[str, Any]:
    """Return what tells which encoder made a set, and what loads it again where a name and a tag don't."""
    told = {key: data.meta.get(key) for key in ("encoder", "pretrained", "weights_sha256")}
    return {**told, **{key: data.meta[key] for key in ("weights_file", "model_config") if data.meta.get(key)}}
