"""Options that several verbs share, and how they speak."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from experiments.cli.terminal import echo

_MOST = 2**32 - 1  # rank_xmodal.scorers.settings.LARGEST, without loading torch to show a help text


class _Path(click.Path):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":  # to pathlib, the current folder
            self.fail("the path is empty. Name a file or a folder; the current one is '.'.", param, ctx)
        try:
            str(value).encode()
        except UnicodeEncodeError:
            self.fail("the path is no UTF-8, which the files that name it must be. Rename it.", param, ctx)
        return super().convert(value, param, ctx)


class _Finite(click.types.FloatParamType):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


def count(least: int, most: int = _MOST) -> click.IntRange:
    """Return the type of an option that takes a whole number of at least this."""
    return click.IntRange(least, most)


def _there(context: click.Context, parameter: click.Parameter, name: str) -> str:
    """Ask for the device before anything is read or made; "auto" needs no torch for it."""
    if name != "auto":
        from rank_xmodal.devices import pick_device

        pick_device(name)
    return name


def _worker_there(context: click.Context, parameter: click.Parameter, name: str) -> str:
    """Ask for who is to work before anything is read or made."""
    if name != "1":
        from rank_xmodal.parallel import check_executor

        check_executor(name)
    return name


PATH = _Path(path_type=Path)
FINITE = _Finite()
SEED = count(0)
DIRECTIONS = ["t2i", "i2t"]

direction = click.option(
    "--direction", type=click.Choice(DIRECTIONS), required=True, help="t2i: text to image; i2t: image to text."
)
device = click.option(
    "--device", default="auto", show_default=True, callback=_there, help="auto, cpu, cuda, cuda:1 ..."
)
tracking = click.option("--mlruns", type=PATH, default="mlruns", show_default=True, help="Folder of the MLflow store.")
own_set = click.option("--data", type=PATH, required=True, help="An embedding set of the same encoder.")
split = click.option("--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True)
depth = click.option(
    "--depth", type=count(2),
    help="The first stage's top list, reordered.  [default: 51; without a common space the gallery, up to 5000]",
)  # fmt: skip
first_stage = click.option(
    "--first-stage", type=click.Choice(["clip", "own"]), default="clip", show_default=True,
    help="What finds the candidates: CLIP's cosine, or the scorer's own space where it has one.",
)  # fmt: skip


parallel = click.option(
    "--parallel", default="1", show_default=True, metavar="N|ray", callback=_worker_there,
    help="So many processes of this machine, or a Ray cluster: RAY_ADDRESS's, else Ray started here. Results are the "
    "same.",
)  # fmt: skip


def say(line: str) -> None:
    """Print a line of progress to standard error; results go to standard output."""
    echo(line, err=True)
