"""Verbs that put a ranker to use: search, serve, resolve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from experiments.cli import options
from experiments.cli.options import FINITE, PATH, say
from experiments.cli.terminal import echo
from experiments.results.text import visible


@click.command()
@click.argument("run", type=PATH)
@click.option("--data", type=PATH, help="The embedding set to search; an index has its own.")
@click.option("--text", help="A caption to find images for.")
@click.option("--image", type=PATH, help="An image to find captions for.")
@click.option("-k", type=click.IntRange(1), default=10, show_default=True)
@click.option("--split", type=click.Choice(["train", "val", "test"]), help="Search this split only.")
@click.option("--where", multiple=True, metavar="COLUMN=VALUE", help="What a hit must have; may be repeated.")
@options.first_stage
@click.option("--depth", type=options.count(1), help="The first stage's top list, reordered: 51; with --then 1000.")
@click.option("--then", help="What puts the ranker's first five in order again: blip_itm or remote.")
@click.option("--then-set", multiple=True, metavar="KEY=VALUE", help="One setting of --then; may be repeated.")
@click.option("--json", "json_file", type=PATH, help="Write the hits there, in both orders.")
@click.option("--html", "html_file", type=PATH, help="Write a page of one file there, both orders side by side.")
@click.option("--pretrained", help="The encoder's weights, where they are not where they were.")
@options.device
def search(
    run: Path,
    data: Path | None,
    text: str | None,
    image: Path | None,
    json_file: Path | None,
    html_file: Path | None,
    **options: Any,
) -> None:
    """Search an embedding set or an index with a caption or an image.

    RUN is a run, or an index, which needs no --data.
    """
    from experiments.use.search import answer, report
    from rank_xmodal.data.embedding_set import EmbeddingSet

    opened = None if data is None else EmbeddingSet.open(data)
    searcher, found = answer(run, opened, text=text, image=image, say=say, **options)
    for hit in found.hits:
        what = json.dumps(hit.item, ensure_ascii=False)
        sure = "" if hit.probability is None else f"  p {hit.probability:.3f}"
        row = visible(str(hit.id), keep="")  # a line a hit
        echo(f"{hit.rank:3d}  {hit.score:8.3f}{sure}  cosine {hit.cosine:.4f}  {row}  {what}")
    if json_file:
        from rank_xmodal.files import write_json

        write_json(json_file, report(searcher, found, text=text, image=image))
    if html_file:
        from experiments.serve.saved import write_page

        write_page(html_file, searcher, found, text=text, image=image, data=opened)


@click.command()
@click.argument("runs", type=PATH, nargs=-1, required=True, metavar="RUN...")
@click.option("--data", type=PATH, help="The embedding set to search; an index has its own.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8_000, show_default=True, help="0: any that is free.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen: this machine alone.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="A name it is asked under, beside localhost.")
@click.option("--rate", type=FINITE, default=20.0, show_default=True, help="Searches a second a client; 0: any number.")
@click.option("--threads", type=options.count(1, 256), help="Of a batch.  [default: all cores but one, at most 4]")
@click.option("--pretrained", help="The encoder's weights, where they are not where they were.")
@options.device
def serve(runs: tuple[Path, ...], data: Path | None, **options: Any) -> None:
    """Serve a page and an API that search by captions and images.

    RUN is a run or an index; give one of each direction to search both ways.
    """
    from experiments.serve.start import serve as start

    start(runs, data, say=say, **options)


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


COMMANDS = (search, serve, resolve)
