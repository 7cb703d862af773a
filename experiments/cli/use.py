"""Verbs that put a ranker to use: search, resolve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from experiments.cli import options
from experiments.cli.options import PATH, say
from experiments.cli.terminal import echo
from experiments.results.text import visible


@click.command()
@click.argument("run", type=PATH)
@click.option("--data", type=PATH, required=True, help="The embedding set to search.")
@click.option("--text", help="A caption to find images for.")
@click.option("--image", type=PATH, help="An image to find captions for.")
@click.option("-k", type=click.IntRange(1), default=10, show_default=True)
@click.option("--split", type=click.Choice(["train", "val", "test"]), help="Search this split only.")
@options.first_stage
@click.option("--depth", type=options.count(1), help="The first stage's top list, reordered: 50; with --then 1000.")
@click.option("--then", help="What puts the ranker's first five in order again: blip_itm or remote.")
@click.option("--then-set", multiple=True, metavar="KEY=VALUE", help="One setting of --then; may be repeated.")
@click.option("--pretrained", help="The encoder's weights, where they are not where they were.")
@options.device
def search(run: Path, data: Path, text: str | None, image: Path | None, k: int, **options: Any) -> None:
    """Search an embedding set with a caption or an image."""
    from experiments.use.search import search as find
    from rank_xmodal.data.embedding_set import EmbeddingSet

    for hit in find(run, EmbeddingSet.open(data), text=text, image=image, k=k, say=say, **options):
        what = json.dumps(hit.get("path") or hit.get("text"), ensure_ascii=False)
        sure = "" if hit["probability"] is None else f"  p {hit['probability']:.3f}"
        row = visible(str(hit["id"]), keep="")  # a line a hit
        echo(f"{hit['rank']:3d}  {hit['score']:8.3f}{sure}  cosine {hit['cosine']:.4f}  {row}  {what}")


@click.command()
@click.argument("run", type=PATH)
@options.own_set
@options.split
@click.option("--out", type=PATH, help="Write the run's matched pairs there, as CSV.")
@click.option("--json", "json_file", type=PATH, help="Write the figures there; shares from 0 to 1.")
@options.device
def resolve(run: Path, data: Path, split: str, out: Path | None, json_file: Path | None, device: str) -> None:
    """Decide which images and captions of a split are one, by a threshold and by a one-to-one assignment.

    Both thresholds are chosen on the validation split. The pairs of the rule that is better there are written.
    """
    from experiments.use import resolve as resolving
    from rank_xmodal.data.embedding_set import EmbeddingSet
    from rank_xmodal.files import write_json

    found = resolving.resolve(run, EmbeddingSet.open(data), split, device=device, say=say)
    for line in resolving.lines(found.report):
        echo(line)
    if json_file:
        write_json(json_file, found.report)
    if out:
        resolving.write_matches(out, found.matches)
        echo(f"wrote {out}: {len(found.matches):,} pairs by the {found.report['written']}, the better F1 on val")


COMMANDS = (search, resolve)
