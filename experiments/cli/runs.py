"""Verbs about trained rankers: train, evaluate, compare, report, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from experiments.cli import options
from experiments.cli.options import PATH, say
from experiments.cli.terminal import echo
from rank_xmodal.errors import UserError

LOSSES = (
    "lambdarank", "neuralndcg", "listnet", "ranknet", "lambdaloss", "approxndcg", "smoothap", "listmle", "softmax",
    "hinge", "bce",
)  # fmt: skip
"""The names of all losses, without loading torch to show a help text."""


@click.command()
@click.option("--data", type=PATH, required=True, help="An embedding set.")
@click.option(
    "--direction", type=click.Choice([*options.DIRECTIONS, "both"]), required=True,
    help="t2i: text to image; i2t: image to text; both: one run each, OUT-t2i and OUT-i2t.",
)  # fmt: skip
@click.option(
    "--scorer", help="What is trained: context_aware (the default), vsepp, csls ... `rank-xmodal scorers` lists all."
)
@click.option("--on", help="The scorer whose scores and space it stands on: clip (the default), vsepp, cca ...")
@click.option("--loss", help=f"What it is trained with: {', '.join(LOSSES)}; listnet by default.")
@click.option(
    "--features",
    type=click.Choice(["full", "embeddings", "concat"]),
    help="full (default): cross-fitted scores; the paper's concat.",
)
@click.option("--ranker", type=click.Choice(["rank_xmodal", "allrank"]), hidden=True)  # --scorer of earlier versions
@click.option("--config", type=PATH, help="Settings in YAML.")
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE",
    help="One setting, such as lr=1e-3; may be repeated. `rank-xmodal scorers NAME` lists those of a scorer.",
)  # fmt: skip
@click.option("--seed", type=options.SEED)
@click.option("--lists", "lists_file", type=PATH, help="Train on these lists.")
@click.option("--out", type=PATH, required=True, help="Folder of the run.")
@click.option("--overwrite", is_flag=True, help="Replace another run at --out.")
@options.tracking
@click.option("--no-tracking", is_flag=True, help="No MLflow run.")
def train(
    data: Path, direction: str, config: Path | None, assignments: tuple[str, ...], lists_file: Path | None, out: Path,
    overwrite: bool, mlruns: Path, no_tracking: bool, **chosen: Any,
) -> None:  # fmt: skip
    """Train a ranker, evaluate it on test, track it in MLflow. Interrupted, it goes on where it stopped."""
    from experiments.run.terminal import step_bar
    from experiments.run.train import run_training
    from rank_xmodal import scorers
    from rank_xmodal.data.candidate_lists import CandidateLists
    from rank_xmodal.data.embedding_set import EmbeddingSet, check_direction
    from rank_xmodal.devices import pick_device

    settings = scorers.read(config, list(assignments), chosen)
    pick_device(settings.device)  # or it is missed only once lists are mined
    opened = EmbeddingSet.open(data)
    if direction == "both" and lists_file:
        raise UserError("--lists: lists are of one direction. Train each --direction by itself.")
    lists = CandidateLists.read(lists_file, opened) if lists_file else None
    if direction == "both" and out.name in ("", ".."):
        out = out.resolve()
    if direction == "both" and not out.name:
        raise UserError(f"--out {out}: has no name that could be followed by -t2i. Name a folder.")
    for way in options.DIRECTIONS if direction == "both" else [direction]:
        folder = out.with_name(f"{out.name}-{way}") if direction == "both" else out
        untracked: list[str] = []
        with step_bar(say) as (tell, on_step):
            report = run_training(
                opened,
                check_direction(way),
                settings,
                folder,
                lists=lists,
                tracking=None if no_tracking else mlruns,
                overwrite=overwrite,
                say=tell,
                on_step=on_step,
                untracked=untracked.append,
            )
        if report:
            _print_report(report)
        echo(f"wrote {folder}")
        for line in untracked:  # said before, and easily missed there
            say(line)


@click.command()
@click.argument("name", required=False)
def scorers(name: str | None) -> None:
    """List the scorers that can be trained, with their papers; of one NAME its settings, defaults and meaning."""
    from rank_xmodal import losses
    from rank_xmodal import scorers as registry

    for known in registry.names() if name is None else [registry.class_of(name, "NAME").name]:
        scorer = registry.class_of(known)
        echo(f"{known:18}{scorer.label}: {scorer.paper}")
    if name is None:
        return
    defaults, fields = registry.parse({"scorer": name}).model_dump(mode="json"), scorer.Settings.model_fields
    told = [(key, defaults[key], field.description or "") for key, field in fields.items() if key != "scorer"]
    if "loss" in defaults:
        own = losses.REGISTRY[defaults["loss"]].parameters
        told += [(f"loss_params.{one.name}", one.default, f"{defaults['loss']}: {one.description}") for one in own]
    for key, value, meaning in told:
        shown = "none" if value in (None, {}, []) else str(value)
        echo(f"  {key:25}{shown:12}{meaning}".rstrip())


def _print_report(report: dict[str, Any]) -> None:
    from experiments.results.result import metrics_in, row_label, rows_in
    from rank_xmodal.evaluation.judging import MEAN_RANK
    from rank_xmodal.retrieval.gallery import CLIP

    first = report.get("first_stage", CLIP)
    found_by = "" if first == CLIP else f" of what {row_label(first)} finds"
    echo(
        f"{report['direction']} {report['split']}: {report['queries']:,} queries, gallery {report['gallery']:,}, "
        f"top {report['candidates']}{found_by} reordered, ceiling {100 * report['ceiling']:.2f} %"
    )
    wide = 2 + max(len(row_label(row)) for row in rows_in(report))
    metrics = metrics_in(report)
    echo(" " * wide + "".join(f"{name:>10}" for name in metrics))
    for row in rows_in(report):
        cells = [report[row][name] * (1 if name == MEAN_RANK else 100) for name in metrics]
        echo(f"{row_label(row):{wide}}" + "".join(f"{cell:10.2f}" for cell in cells))
    if "calibration" in report:
        found = report["calibration"]
        echo(
            f"probabilities: calibration error {found['ECE']:.4f}; average precision over all pairs {found['AP']:.3f}, "
            f"of the cosine {found['clip_AP']:.3f}"
        )


@click.command()
@click.argument("run", type=PATH)
@options.own_set
@options.split
@options.depth
@options.first_stage
@click.option("--json", "json_file", type=PATH, help="Write the figures there; shares from 0 to 1.")
@click.option(
    "--confusion", type=PATH,
    help="Sets with one class an item: write the confusion matrices of the first item's class there, as CSV.",
)  # fmt: skip
@options.parallel
@options.device
def evaluate(
    run: Path, data: Path, split: str, depth: int | None, first_stage: Any, json_file: Path | None,
    confusion: Path | None, parallel: str, device: str,
) -> None:  # fmt: skip
    """Compare CLIP, CSLS and a trained ranker over the whole gallery of a split.

    Of a set with labels also by class: MAP, precision, recall and F1 of matched pairs, and a confusion matrix.
    """
    from experiments.results import labelled
    from experiments.results.evaluate import evaluate_run, opened
    from rank_xmodal.data.embedding_set import EmbeddingSet
    from rank_xmodal.files import write_json
    from rank_xmodal.parallel import executor_named

    own_set = EmbeddingSet.open(data)
    if confusion and not own_set.labelled:
        raise UserError(f"--confusion {confusion}: {data} has no labels. Give its captions table that column.")
    reranker = opened(run, own_set, split, device=device, say=say)
    with executor_named(parallel) as executor:
        result = evaluate_run(
            reranker, own_set, split, depth=depth, first_stage=first_stage, executor=executor, run=run
        )
    report = result.report
    if own_set.labelled:
        report["labels"] = labelled.labels_report(reranker, own_set, result, depth)
    if confusion:
        labelled.write_confusion(confusion, report["labels"])
    if json_file:
        write_json(json_file, report)
    _print_report(report)
    if "labels" in report:
        for line in labelled.lines(report):
            echo(line)


@click.command()
@click.argument("run", type=PATH)
@options.own_set
@click.option(
    "--format", "style", type=click.Choice(["trec", "libsvm"]), required=True,
    help="trec: run.txt, clip.txt (chance.txt where images and texts share no space), qrels.txt. libsvm: lists.txt, "
    "big: some 34 bytes x dim for every candidate of every list (dim 512, 5,000 lists of 51: 4.5 GB); its size is "
    "printed first.",
)  # fmt: skip
@options.split
@options.depth
@click.option("--out", type=PATH, required=True, help="Folder to write into.")
@options.device
def export(run: Path, data: Path, split: str, depth: int | None, style: str, out: Path, device: str) -> None:
    """Write a split's rankings for trec_eval and its kin, or its lists for allRank and scikit-learn.

    In ids, "%" and what is not printable or is white space becomes %XX, its bytes in UTF-8; an empty id becomes "%".
    """
    from experiments.export.formats import export_libsvm, export_trec
    from rank_xmodal.data.embedding_set import EmbeddingSet

    write = export_trec if style == "trec" else export_libsvm
    for path in write(run, EmbeddingSet.open(data), split, out, depth=depth, device=device, say=say):
        echo(f"wrote {path}")


@click.command()
@click.argument("run", type=PATH)
@options.own_set
@click.option("--out", type=PATH, help="The page, or a folder for it; report.html in the run's by default.")
@options.device
def report(run: Path, data: Path, out: Path | None, device: str) -> None:
    """Write a run's page again: figures, plots, and the queries whose order changed most."""
    from experiments.report.page import report_of_run
    from rank_xmodal.data.embedding_set import EmbeddingSet

    echo(f"wrote {report_of_run(run, EmbeddingSet.open(data), out or run, device=device)}")


COMMANDS = (train, scorers, evaluate, report, export)
