"""One training from lists to report: mine, train, evaluate, save, track."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from experiments import refit
from experiments.lists import training_lists
from experiments.plots import plot_reliability, plot_run
from experiments.report import write_report
from rank_xmodal import losses, metrics, ranker_folder
from rank_xmodal.candidate_lists import CandidateLists
from rank_xmodal.embedding_set import Direction, EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation import MEAN_RANK, FirstStage, evaluate, first_stage
from rank_xmodal.files import read_json, replacing, sha256, write_json
from rank_xmodal.query_bank import neighbours
from rank_xmodal.ranker_folder import pick_device
from rank_xmodal.settings import Settings
from rank_xmodal.tracking import Tracker, metric_key
from rank_xmodal.training import Trained, train

SHOWN = (*metrics.DEFAULT, MEAN_RANK)
# What the rows of a report are called in MLflow, whose charts come in alphabetical order: the ranker's before CLIP's.
METRIC_GROUPS = {"ranker": "test", "clip": "test_clip", "csls": "test_csls"}


def run_name(settings: Settings, direction: str) -> str:
    """Return what a run is called wherever it shows: listnet-t2i, with what differs from the defaults behind it."""
    parts = [settings.loss, direction]
    if settings.ranker != "rank_xmodal":
        parts.append(settings.ranker)
    elif settings.features != "full":
        parts.append(settings.features)
    if settings.seed:
        parts.append(f"seed{settings.seed}")
    return "-".join(parts)


def _split(data: EmbeddingSet, direction: Direction, split: str) -> FirstStage | None:
    if not (data.images["split"] == split).any() or not len(data.query_rows(direction, split)):
        return None
    return first_stage(data, direction, split)


def run_training(
    data: EmbeddingSet,
    direction: Direction,
    settings: Settings,
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
        "trained_on": ["train"],
        "lists_given": sha256(lists.query, lists.candidates, lists.labels) if lists else None,
    }
    if (out / "config.json").is_file():
        facts = read_json(out / "config.json")
        if all(facts.get(key) == value for key, value in identity.items() if key != "trained_on"):
            say(f"{out}: already trained with these settings on this data; reading its report.")
            return facts.get("test") or {}
        if not overwrite:
            raise UserError(
                f"{out}: holds a ranker trained with other settings or on other data. "
                "Choose another --out, or replace it with --overwrite."
            )
    unfinished = out / "checkpoint" / "state.json"
    if overwrite and unfinished.is_file():
        facts = read_json(unfinished)
        if any(facts[key] != value for key, value in identity.items() if key in facts):
            shutil.rmtree(unfinished.parent)  # of another training; one's own goes on
    chosen = training_lists(data, direction, settings, say) if lists is None else lists
    if chosen.direction != direction:
        raise UserError(f"--lists: its lists are {chosen.direction}, --direction is {direction}.")
    validation = _split(data, direction, "val")
    say(
        f"{run_name(settings, direction)}: {len(chosen):,} {chosen.info.get('protocol', '')} lists of {chosen.length}, "
        + (
            "no validation split: the last epoch is kept"
            if validation is None
            else f"{len(validation.lists):,} to validate"
        )
    )

    tracker = Tracker(tracking, say)
    run_file = out / "checkpoint.run"  # the MLflow run of an unfinished training, to go on with
    known = run_file.read_text().strip() if run_file.is_file() and (out / "checkpoint").is_dir() else None
    tracker.start(
        experiment=data.name,
        name=run_name(settings, direction),
        params=_params(data, direction, settings, chosen),
        tags={
            "loss": settings.loss,
            "direction": direction,
            "features": settings.features,
            "ranker": settings.ranker,
            "dataset": data.name,
            "seed": str(settings.seed),
            "mlflow.source.name": "rank-xmodal train",
            "mlflow.source.git.commit": code_version(),
        },
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
        trained = train(
            data,
            chosen,
            settings,
            validation=validation,
            checkpoint=out / "checkpoint",
            on_epoch=on_epoch,
            on_step=on_step,
        )
        if lists is None and validation is not None and refit.wanted(settings, trained, len(chosen)):
            say(f"  again on train and val together, up to epoch {trained.best_epoch}")
            trained = refit.refit(data, direction, settings, trained, on_step)
            identity["trained_on"] = ["train", "val"]
        report = _finish(data, direction, settings, out, trained, identity, chosen, tracker)
    except KeyboardInterrupt:
        tracker.finish(status="KILLED")
        raise
    except BaseException:
        tracker.finish(status="FAILED")
        raise
    run_file.unlink(missing_ok=True)
    return report


def _finish(
    data: EmbeddingSet,
    direction: Direction,
    settings: Settings,
    out: Path,
    trained: Trained,
    identity: dict[str, Any],
    lists: CandidateLists,
    tracker: Tracker,
) -> dict[str, Any]:
    report: dict[str, Any] = {}
    test = _split(data, direction, "test")
    if test is not None:
        near = neighbours(data.candidates(direction), trained.bank)
        report, values = evaluate(trained.model, data, test, near, pick_device(settings.device), trained.calibration)
        frame = pd.DataFrame({"query": test.lists.query})
        for row, by_metric in values.items():
            for name, value in by_metric.items():
                frame[f"{row}/{name}"] = value.numpy()
        with replacing(out / "test.parquet") as part:
            frame.to_parquet(part, index=False)
    facts = {
        **identity,
        "dataset": data.name,
        "encoder": {key: data.meta.get(key) for key in ("encoder", "pretrained", "weights_sha256")},
        "lists": lists.info,
        "best_epoch": trained.best_epoch,
        "calibration": trained.calibration.as_dict() if trained.calibration else None,
        "history": trained.history,
        "versions": _versions(),
        "mlflow_run": tracker.run_id,
        "test": report,
    }
    card = _card(data, direction, settings, trained, report, out, identity["trained_on"])
    ranker_folder.save(out, trained.model, trained.bank, facts, card)
    if report:
        write_json(out / "test.json", report)
        write_report(out, data, out / "report.html")
    if tracker.run_id is None:  # nobody to log the pictures for, and drawing takes most of a second
        return report
    final = {}
    if report:
        for row, prefix in METRIC_GROUPS.items():
            final.update({f"{prefix}/{metric_key(name)}": report[row][name] for name in SHOWN})
        final["gain/R1"] = report["ranker"]["R@1"] - report["clip"]["R@1"]
        final["test/ceiling"] = report["ceiling"]
        if "calibration" in report:
            final.update({f"test_calibration/{name}": report["calibration"][name] for name in ("ECE", "Brier", "AP")})
    with tempfile.TemporaryDirectory() as folder:
        plot = Path(folder) / "run.png"
        plot_run(trained.history, report, f"{data.name}: {run_name(settings, direction)}", plot)
        pictures = [plot]
        if "calibration" in report:
            pictures.append(Path(folder) / "reliability.png")
            plot_reliability(report["calibration"], f"{data.name}: {run_name(settings, direction)}", pictures[-1])
        (Path(folder) / "settings.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
        files = [
            "config.json",
            "model.safetensors",
            "query_bank.npy",
            "README.md",
            "test.json",
            "test.parquet",
            "report.html",
        ]
        artifacts = [out / name for name in files if (out / name).is_file()]
        tracker.finish(final, [*artifacts, *pictures, Path(folder) / "settings.yaml"])
    return report


def _params(data: EmbeddingSet, direction: Direction, settings: Settings, lists: CandidateLists) -> dict[str, Any]:
    flat = settings.model_dump(mode="json")
    flat.update({f"loss_params.{k}": v for k, v in flat.pop("loss_params").items()})
    for parameter in losses.REGISTRY[settings.loss].parameters:
        flat.setdefault(f"loss_params.{parameter.name}", parameter.default)
    return {
        **flat,
        "direction": direction,
        "dataset": data.name,
        "dataset_fingerprint": data.fingerprint,
        "encoder": data.meta.get("encoder", "unknown"),
        "training_lists": len(lists),
        "list_length": lists.length,
    }


def code_version() -> str:
    """Return the package's version and, in a checkout, its commit."""
    version = importlib.metadata.version("rank-xmodal")
    try:
        here = Path(__file__).parent
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return version
    return f"{version}+{commit}"


def _versions() -> dict[str, str]:
    names = ("torch", "numpy", "open_clip_torch", "mlflow")
    return {"rank_xmodal": code_version(), "python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in names
    }


def _card(
    data: EmbeddingSet,
    direction: Direction,
    settings: Settings,
    trained: Trained,
    report: dict[str, Any],
    out: Path,
    trained_on: list[str],
) -> str:
    lines = [
        "---",
        "library_name: rank_xmodal",
        "tags: [learning-to-rank, clip, image-text-retrieval]",
        "---",
        "",
        f"# {run_name(settings, direction)} on {data.name}",
        "",
        f"Reorders CLIP's top candidates, {'text to image' if direction == 't2i' else 'image to text'}. "
        f"Trained on frozen embeddings of {data.meta.get('encoder', 'an unknown encoder')} "
        f"({data.meta.get('pretrained', 'unknown weights')}); embeddings of another model won't do.",
        "",
    ]
    if report:
        lines += [
            f"Test: {report['queries']:,} queries, a gallery of {report['gallery']:,}, the top {report['candidates']} "
            f"reordered (ceiling {100 * report['ceiling']:.1f} %). R@K is the hit rate, in %.",
            "",
            "| row | " + " | ".join(SHOWN) + " |",
            "|---|" + "---:|" * len(SHOWN),
        ]
        for row in ("clip", "csls", "ranker"):
            figures = [f"{report[row][n]:.2f}" if n == MEAN_RANK else f"{100 * report[row][n]:.2f}" for n in SHOWN]
            lines.append(f"| {row} | " + " | ".join(figures) + " |")
        lines.append("")
    lines += [
        f"Best epoch {trained.best_epoch} of {len(trained.history) - 1}; trained on "
        f"{' and '.join(trained_on)}; query bank of {len(trained.bank):,} "
        "training queries.",
        "",
        "```python",
        "from rank_xmodal import Reranker",
        "",
        f'index = Reranker.from_pretrained("{out}").index(embeddings, ids=ids)',
        "hits = index.search(query_embeddings, k=10)",
        "```",
        "",
        "Settings:",
        "",
        "```json",
        json.dumps(settings.model_dump(mode="json"), indent=2),
        "```",
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in _versions().items()) + ".",
        "",
    ]
    return "\n".join(lines)
