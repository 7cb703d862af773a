"""Verbs that check figures against those that others published: verify, protocols."""

from __future__ import annotations

from pathlib import Path

import click

from experiments.cli import options
from experiments.cli.options import PATH
from experiments.cli.terminal import console, echo


@click.command()
@click.argument("dataset", type=click.Choice(["coco", "flickr30k"]))
@click.option("--data", type=PATH, required=True, help="An embedding set of it.")
def verify(dataset: str, data: Path) -> None:
    """Are CLIP's figures on this set the published ones?

    Ends with 0 where all agree within 0.3 points, with 1 where one does not, naming the likely causes, and with 2 for a
    set that can't be compared.
    """
    from experiments.checks import verify as checking
    from rank_xmodal.data.embedding_set import EmbeddingSet

    opened = EmbeddingSet.open(data)
    lines = checking.compare(opened, dataset)
    console().print(checking.table(opened, dataset, lines))
    agree, said = checking.verdict(opened, dataset, lines)
    for line in said:
        echo(line)
    if not agree:
        raise SystemExit(1)


@click.command()
@click.argument("run", type=PATH)
@options.own_set
@click.option("--fold-size", type=options.count(1), default=1_000, show_default=True, help="Images in a fold.")
@options.depth
@click.option("--json", "json_file", type=PATH, help="Write the figures there; shares from 0 to 1.")
@options.device
def protocols(run: Path, data: Path, fold_size: int, depth: int | None, json_file: Path | None, device: str) -> None:
    """COCO's 1K protocol beside its 5K one: the mean over folds of the test split, and the whole of it."""
    from experiments.checks import protocols as checking
    from rank_xmodal.data.embedding_set import EmbeddingSet
    from rank_xmodal.files import write_json
    from rank_xmodal.use.reranker import Reranker

    opened = EmbeddingSet.open(data)
    report = checking.compare(opened, Reranker.from_pretrained(run, device), fold_size=fold_size, depth=depth)
    if json_file:
        write_json(json_file, report)
    images = int((opened.images["split"] == "test").sum())
    console().print(checking.table(report, images, f"{run} on {opened.name}"))


COMMANDS = (verify, protocols)
