"""Options that several verbs share, and how they speak."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

PATH = click.Path(path_type=Path)
DIRECTIONS = ["t2i", "i2t"]

direction = click.option(
    "--direction", type=click.Choice(DIRECTIONS), required=True, help="t2i: text to image; i2t: image to text."
)
device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda ...")
tracking = click.option("--mlruns", type=PATH, default="mlruns", show_default=True, help="Folder of the MLflow store.")
own_set = click.option("--data", type=PATH, required=True, help="An embedding set of the same encoder.")
split = click.option("--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True)
depth = click.option(
    "--depth", type=click.IntRange(2), default=51, show_default=True, help="The first stage's top list, reordered."
)
first_stage = click.option(
    "--first-stage", type=click.Choice(["clip", "own"]), default="clip", show_default=True,
    help="What finds the candidates: CLIP's cosine, or the scorer's own space where it has one.",
)  # fmt: skip


def say(line: str) -> None:
    """Print a line of progress to standard error; results go to standard output."""
    click.echo(line, err=True)


def console(width: int = 140) -> Console:
    """Return where tables are printed: as wide as the terminal, or as said where there is none."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else width)
