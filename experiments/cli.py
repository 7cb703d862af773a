"""The command `rank-xmodal`."""

from __future__ import annotations

import atexit
import errno
import gc
import json
import sys
from pathlib import Path
from typing import Any

import click

from rank_xmodal.errors import UserError

_DATA = click.argument("data", type=click.Path(path_type=Path))
_DIRECTION = click.option(
    "--direction", type=click.Choice(["t2i", "i2t"]), required=True, help="t2i: text to image; i2t: image to text."
)
_DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda ...")
_TRACKING = click.option(
    "--mlruns", type=click.Path(path_type=Path), default="mlruns", show_default=True, help="Folder of the MLflow store."
)


def say(line: str) -> None:
    """Print a line of progress to standard error; results go to standard output."""
    click.echo(line, err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="rank-xmodal")
def cli() -> None:
    """Learn to rank over frozen CLIP embeddings.

    embed (or import) once, then train; evaluate, compare and search use what was trained.
    """


@cli.command()
@click.option("--dataset", type=click.Choice(["scenes", "flickr30k", "coco", "folder"]), required=True)
@click.option(
    "--root", type=click.Path(path_type=Path), required=True, help="The dataset's folder (scenes: made there)."
)
@click.option(
    "--model", required=True, help="open_clip's model name, e.g. ViT-B-32-quickgelu; scenes-clip is the demo's."
)
@click.option("--pretrained", required=True, help="A pretrained tag of that model, or a weights file.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the embedding set.")
@click.option("--captions", type=click.Path(path_type=Path), help="folder: the CSV or Parquet of captions.")
@click.option("--name", help="What tables and MLflow call this set; the folder's name if not given.")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=None, help="scenes, and folders without a split column.")
@click.option("--overwrite", is_flag=True, help="Replace another embedding set at --out.")
@_DEVICE
def embed(
    dataset: str, root: Path, model: str, pretrained: str, out: Path, captions: Path | None, name: str | None,
    batch_size: int, seed: int | None, overwrite: bool, device: str,
) -> None:  # fmt: skip
    """Embed a dataset's images and captions with a frozen CLIP. Interrupted, it goes on where it stopped."""
    from data_prep.datasets import load
    from data_prep.embed import embed as run
    from data_prep.encoder import load_encoder

    corpus = load(dataset, root, say=say, seed=seed, captions=captions)
    encoder = load_encoder(model, pretrained, None if device == "auto" else device, say=say)
    made = run(corpus, encoder, out, batch_size=batch_size, overwrite=overwrite, name=name, say=say)
    _describe(made)


@cli.command("import")
@click.option("--images", type=click.Path(path_type=Path), required=True, help="A.npy, or clip-retrieval's folder.")
@click.option("--texts", type=click.Path(path_type=Path), help="B.npy")
@click.option("--captions", type=click.Path(path_type=Path), help="C.csv: caption_id,image_id,caption,split[,labels]")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the embedding set.")
@click.option("--name", help="What tables and MLflow call this set; the folder's name if not given.")
@click.option("--overwrite", is_flag=True, help="Replace another embedding set at --out.")
def import_(
    images: Path, texts: Path | None, captions: Path | None, out: Path, name: str | None, overwrite: bool
) -> None:
    """Take embeddings made elsewhere: two .npy files with a CSV, or a folder that clip-retrieval wrote."""
    from data_prep.importing import import_clip_retrieval, import_embeddings

    if images.is_dir():
        if texts or captions:
            raise UserError(
                f"--images {images} is a folder, clip-retrieval's layout: leave out --texts and --captions."
            )
        made = import_clip_retrieval(images, out, name, overwrite=overwrite, say=say)
    elif texts is None or captions is None:
        raise UserError("import: give --texts B.npy and --captions C.csv too, or a clip-retrieval folder as --images.")
    else:
        made = import_embeddings(images, texts, captions, out, name, overwrite=overwrite, say=say)
    _describe(made)


def _describe(made: Any) -> None:
    counts = ", ".join(
        f"{split} {n['images']:,} images / {n['texts']:,} texts" for split, n in made.meta["counts"].items()
    )
    classes = f"; {len(made.classes):,} classes" if made.labelled else ""
    click.echo(f"{made.root}: {made.dim} wide; {counts}{classes}")


def _pool(context: click.Context, parameter: click.Parameter, value: str) -> int | str:
    if value == "all":
        return value
    if not value.isdigit() or int(value) < 1:
        raise click.BadParameter(f"{value!r} is neither a number nor 'all'.")
    return int(value)


@cli.command()
@_DATA
@_DIRECTION
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="train", show_default=True)
@click.option("--negatives", type=click.IntRange(1), default=50, show_default=True)
@click.option("--pool", default="200", show_default=True, callback=_pool, help="Random candidates per query, or all.")
@click.option("--protocol", type=click.Choice(["clean", "paper", "natural"]), default="clean", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--range-min", type=click.IntRange(0), default=0, show_default=True, help="Skip the most similar ones.")
@click.option("--absolute-margin", type=float, help="Keep negatives this far below the positive's cosine.")
@click.option("--relative-margin", type=float, help="The same, as a share of the positive's cosine.")
@click.option("--max-score", type=float, help="Keep negatives of at most this cosine.")
@click.option("--out", type=click.Path(path_type=Path), help="By default lists/DIRECTION-SPLIT.parquet in DATA.")
def mine(data: Path, direction: str, split: str, out: Path | None, **options: Any) -> None:
    """Mine hard negatives by CLIP cosine into candidate lists."""
    from data_prep.mining.miner import mine as run
    from data_prep.mining.statistics import format_report
    from data_prep.progress import progress_bar
    from experiments.lists import default_path
    from rank_xmodal.embedding_set import EmbeddingSet, check_direction

    opened = EmbeddingSet.open(data)
    way = check_direction(direction)
    done = 0
    with progress_bar("queries", len(opened.query_rows(way, split)), say=say) as advance:

        def progress(count: int, total: int) -> None:
            nonlocal done
            advance(count - done)
            done = count

        lists = run(opened, way, split, progress=progress, **options)
    target = out or default_path(opened, way, split)
    lists.write(target)
    click.echo(format_report(lists))
    click.echo(f"wrote {target}: {len(lists):,} lists of {lists.length}")


@cli.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="An embedding set.")
@_DIRECTION
@click.option("--loss", help="lambdarank, neuralndcg, listnet or ranknet.")
@click.option("--features", type=click.Choice(["full", "concat"]), help="full (default), or the paper's concat.")
@click.option(
    "--ranker", type=click.Choice(["rank_xmodal", "allrank"]), help="Whose model and losses; rank_xmodal's own."
)
@click.option("--config", type=click.Path(path_type=Path), help="Settings in YAML.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="One setting; may be repeated.")
@click.option("--seed", type=click.IntRange(0))
@click.option("--lists", "lists_file", type=click.Path(path_type=Path), help="Train on these lists.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@click.option("--overwrite", is_flag=True, help="Replace another run at --out.")
@_TRACKING
@click.option("--no-tracking", is_flag=True, help="No MLflow run.")
def train(
    data: Path, direction: str, loss: str | None, features: str | None, ranker: str | None, config: Path | None,
    assignments: tuple[str, ...], seed: int | None, lists_file: Path | None, out: Path, overwrite: bool,
    mlruns: Path, no_tracking: bool,
) -> None:  # fmt: skip
    """Train a ranker, evaluate it on test, track it in MLflow. Interrupted, it goes on where it stopped."""
    from experiments.terminal import step_bar
    from experiments.train import run_training
    from rank_xmodal import settings
    from rank_xmodal.candidate_lists import CandidateLists
    from rank_xmodal.embedding_set import EmbeddingSet, check_direction

    chosen = settings.read(
        config, list(assignments), {"loss": loss, "features": features, "ranker": ranker, "seed": seed}
    )
    opened = EmbeddingSet.open(data)
    lists = CandidateLists.read(lists_file, opened) if lists_file else None
    with step_bar(say) as (tell, on_step):
        report = run_training(
            opened,
            check_direction(direction),
            chosen,
            out,
            lists=lists,
            tracking=None if no_tracking else mlruns,
            overwrite=overwrite,
            say=tell,
            on_step=on_step,
        )
    if report:
        _print_report(report)
    click.echo(f"wrote {out}")


def _print_report(report: dict[str, Any]) -> None:
    from experiments.train import SHOWN
    from rank_xmodal.evaluation import MEAN_RANK

    click.echo(
        f"{report['direction']} {report['split']}: {report['queries']:,} queries, gallery {report['gallery']:,}, "
        f"top {report['candidates']} reordered, ceiling {100 * report['ceiling']:.2f} %"
    )
    click.echo(f"{'':8}" + "".join(f"{name:>10}" for name in SHOWN))
    for row, label in (("clip", "CLIP"), ("csls", "CSLS"), ("ranker", "ranker")):
        cells = [report[row][name] * (1 if name == MEAN_RANK else 100) for name in SHOWN]
        click.echo(f"{label:8}" + "".join(f"{cell:10.2f}" for cell in cells))
    if "calibration" in report:
        found = report["calibration"]
        click.echo(
            f"probabilities: calibration error {found['ECE']:.4f}; average precision over all pairs {found['AP']:.3f}, "
            f"of the cosine {found['clip_AP']:.3f}"
        )


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="An embedding set of the same encoder.")
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True)
@click.option("--depth", type=click.IntRange(2), default=51, show_default=True, help="CLIP's top list, reordered.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="Write the figures there; shares from 0 to 1."
)
@click.option(
    "--confusion", type=click.Path(path_type=Path),
    help="Sets with one class an item: write the confusion matrices of the first item's class there, as CSV.",
)  # fmt: skip
@_DEVICE
def evaluate(
    run: Path, data: Path, split: str, depth: int, json_file: Path | None, confusion: Path | None, device: str
) -> None:
    """Compare CLIP, CSLS and a trained ranker over the whole gallery of a split.

    Of a set with labels also by class: MAP, precision, recall and F1 of matched pairs, and a confusion matrix.
    """
    from experiments import labelled
    from rank_xmodal.embedding_set import EmbeddingSet
    from rank_xmodal.evaluation import first_stage, judge, score_rows
    from rank_xmodal.files import write_json
    from rank_xmodal.query_bank import neighbours
    from rank_xmodal.reranker import Reranker

    opened = EmbeddingSet.open(data)
    reranker = Reranker.from_pretrained(run, device)
    reranker.check_made_for(opened, str(run))
    if confusion and not opened.labelled:
        raise UserError(f"--confusion {confusion}: {data} has no labels. Give its captions table that column.")
    direction = reranker.facts["direction"]
    if split in reranker.facts.get("trained_on", ["train"]):
        say(f"{split}: the ranker was trained on these queries; expect figures that mean little. Use test.")
    stage = first_stage(opened, direction, split, depth)
    near = neighbours(opened.candidates(direction), reranker.bank)
    scores = score_rows(reranker.model, opened, stage, near, reranker.device)
    report, _ = judge(scores, stage, reranker.calibration)
    if opened.labelled:
        report["labels"] = labelled.labels_report(reranker, opened, stage, scores, depth)
    if confusion:
        labelled.write_confusion(confusion, report["labels"])
    if json_file:
        write_json(json_file, report)
    _print_report(report)
    if "labels" in report:
        for line in labelled.lines(report):
            click.echo(line)


@cli.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--experiment", help="All finished runs of an MLflow experiment.")
@_TRACKING
@click.option(
    "--format", "style", type=click.Choice(["terminal", "csv", "markdown", "latex"]), default="terminal",
    show_default=True, help="csv: both directions in one table, unrounded. Shares are in % in all of them.",
)  # fmt: skip
@click.option("--plots", type=click.Path(path_type=Path), help="Draw recall.png and rank_shifts.png into that folder.")
def compare(runs: tuple[Path, ...], experiment: str | None, mlruns: Path, style: str, plots: Path | None) -> None:
    """Show runs side by side, CLIP and CSLS first; of several seeds the mean and standard deviation."""
    from rich.console import Console

    from experiments import compare as tables

    if bool(runs) == bool(experiment):
        raise UserError("compare: name runs' folders, or an --experiment.")
    entries = tables.from_experiment(mlruns, experiment, say) if experiment else tables.from_folders(list(runs))
    title = experiment or "runs"
    if style == "csv":
        click.echo(tables.as_csv(entries), nl=False)
    elif style == "markdown":
        click.echo(tables.as_markdown(entries, title), nl=False)
    elif style == "latex":
        click.echo(tables.as_latex(entries, title), nl=False)
    else:
        console = Console(width=None if sys.stdout.isatty() else 140)
        for table in tables.as_tables(entries, title):
            console.print(table)
    if plots:
        for picture in tables.write_plots(entries, title, plots, say):
            say(f"wrote {picture}")


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="An embedding set of the same encoder.")
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True)
@click.option("--depth", type=click.IntRange(2), default=51, show_default=True, help="CLIP's top list, reordered.")
@click.option(
    "--format", "style", type=click.Choice(["trec", "libsvm"]), required=True,
    help="trec: run.txt, clip.txt, qrels.txt. libsvm: lists.txt, big: some 34 bytes x dim for every candidate of every "
    "list (dim 512, 5,000 lists of 51: 4.5 GB); its size is printed first.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write into.")
@_DEVICE
def export(run: Path, data: Path, split: str, depth: int, style: str, out: Path, device: str) -> None:
    """Write a split's rankings for trec_eval and its kin, or its lists for allRank and scikit-learn.

    In ids, "%" and what is not printable or is white space becomes %XX, its bytes in UTF-8; an empty id becomes "%".
    """
    from experiments.export import export_libsvm, export_trec
    from rank_xmodal.embedding_set import EmbeddingSet

    write = export_trec if style == "trec" else export_libsvm
    for path in write(run, EmbeddingSet.open(data), split, out, depth=depth, device=device, say=say):
        click.echo(f"wrote {path}")


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="The embedding set to search.")
@click.option("--text", help="A caption to find images for.")
@click.option("--image", type=click.Path(path_type=Path), help="An image to find captions for.")
@click.option("-k", type=click.IntRange(1), default=10, show_default=True)
@click.option("--split", type=click.Choice(["train", "val", "test"]), help="Search this split only.")
@click.option("--pretrained", help="The encoder's weights, where they are not where they were.")
@_DEVICE
def search(run: Path, data: Path, text: str | None, image: Path | None, k: int, **options: Any) -> None:
    """Search an embedding set with a caption or an image."""
    from experiments.search import search as find
    from rank_xmodal.embedding_set import EmbeddingSet

    for hit in find(run, EmbeddingSet.open(data), text=text, image=image, k=k, say=say, **options):
        what = json.dumps(hit.get("path") or hit.get("text"), ensure_ascii=False)  # no control character gets through
        sure = "" if hit["probability"] is None else f"  p {hit['probability']:.3f}"
        click.echo(f"{hit['rank']:3d}  {hit['score']:8.3f}{sure}  cosine {hit['cosine']:.4f}  {hit['id']}  {what}")


@cli.command()
@click.option("--config", type=click.Path(path_type=Path), help="By default the demo's own experiments/demo.yaml.")
@_TRACKING
def demo(config: Path | None, mlruns: Path) -> None:
    """The whole road on the corpus scenes: draw, embed, mine, train four losses in both directions, compare."""
    from experiments.demo import run

    run(config, mlruns, say)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: 0, 2 for what the user can mend, 130 for Ctrl-C."""
    # Python would look for old garbage in all of torch, while importing it and at the end: 0.7 s, for nothing. Young
    # garbage is collected as ever.
    gc.set_threshold(700, 10, 1_000)
    atexit.register(gc.freeze)
    try:
        cli.main(arguments, prog_name="rank-xmodal", standalone_mode=False)
    except UserError as error:
        click.echo(f"rank-xmodal: {error}", err=True)
        raise SystemExit(2) from None
    except click.ClickException as error:
        error.show()
        raise SystemExit(2) from None
    except (KeyboardInterrupt, click.Abort):
        click.echo("rank-xmodal: interrupted. Run the same command to go on.", err=True)
        raise SystemExit(130) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            click.echo(f"rank-xmodal: {error.filename or 'writing'}: the disk is full. Free some space.", err=True)
            raise SystemExit(2) from None
        if error.errno == errno.EPIPE:  # whoever read our output has gone, as `| head` does
            sys.stderr.close()
            raise SystemExit(0) from None
        raise


if __name__ == "__main__":
    main()
