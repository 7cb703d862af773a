"""Verbs that keep a corpus ready to be searched: index, add, remove."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from experiments.cli import options
from experiments.cli.options import PATH, say
from experiments.cli.terminal import echo
from rank_xmodal.errors import UserError


@click.command()
@click.argument("run", type=PATH)
@options.own_set
@click.option("--out", type=PATH, required=True, help="Folder of the index.")
@click.option(
    "--store", type=click.Choice(["exact", "lance"]), default="exact", show_default=True,
    help="Mapped files, searched exactly; or a LanceDB table, a large one searched approximately.",
)  # fmt: skip
@click.option("--split", type=click.Choice(["train", "val", "test"]), help="Take this split only.")
@options.first_stage
@click.option("--overwrite", is_flag=True, help="Replace another index at --out.")
@options.device
def index(run: Path, data: Path, out: Path, **options: Any) -> None:
    """Keep a set's images (or captions) ready to be searched with a trained ranker, in a folder."""
    from experiments.use.indexing import index_set
    from rank_xmodal.data.embedding_set import EmbeddingSet

    made = index_set(run, EmbeddingSet.open(data), out, say=say, **options)
    echo(f"{out}: {made!r}")
    known = getattr(made.store, "facts", None)
    if known and known["probes"] is not None:
        echo(
            f"a search looks at {known['probes']} of {known['parts']} parts and finds {100 * known['recall']:.1f} % of "
            "the exact top 51, measured with queries of the ranker's bank"
        )


@click.command()
@click.argument("folder", metavar="INDEX", type=PATH)
@options.own_set
@click.option("--split", type=click.Choice(["train", "val", "test"]), help="Take this split only.")
@options.device
def add(folder: Path, data: Path, **options: Any) -> None:
    """Add a set's images (or captions) to an index. What it has already is left out, so this can be repeated."""
    from experiments.use.indexing import add_set
    from rank_xmodal.data.embedding_set import EmbeddingSet

    made, count = add_set(folder, EmbeddingSet.open(data), say=say, **options)
    echo(f"{folder}: {count:,} added; {made!r}")


@click.command()
@click.argument("folder", metavar="INDEX", type=PATH)
@click.argument("ids", nargs=-1)
@click.option("--from", "file", type=click.File("r", encoding="utf-8-sig"), help="A file with an id a line.")
def remove(folder: Path, ids: tuple[str, ...], file: Any) -> None:
    """Remove candidates from an index by their ids. What it hasn't is told, so this can be repeated."""
    from experiments.use.indexing import ids_as_written
    from rank_xmodal.use.index import Index

    try:
        written = [*ids, *([line.rstrip("\r\n") for line in file if line.strip()] if file else [])]
    except UnicodeDecodeError as error:
        raise UserError(f"{file.name}: is no UTF-8. Save it as UTF-8, then run again.") from error
    if not written:
        raise UserError("remove: name ids, or a file of them by --from.")
    made = Index.load(folder)
    wanted = ids_as_written(made, written)
    there = set(made.store.columns(made.store.rows_of(wanted), ["id"])["id"].to_pylist())
    lost = [name for name in dict.fromkeys(wanted) if name not in there]
    if lost:  # no error, so that a command that was killed can be repeated
        say(f"{folder}: {len(lost):,} of the ids are not in the index, {lost[0]!r} first")
    count = made.remove(there)
    echo(f"{folder}: {count:,} removed; {made!r}")


COMMANDS = (index, add, remove)
