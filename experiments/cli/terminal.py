"""Where all output leaves: ids, captions, names and paths of others must not act on the user's terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from experiments.results.text import visible

if TYPE_CHECKING:
    from rich.console import Console


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print text to standard output, or standard error; control characters but line feeds and tabs are written out."""
    click.echo(visible(text), err=err, nl=nl)


def console(width: int = 140) -> Console:
    """Return where tables are printed: as wide as the terminal, or as said where there is none.

    Text in a table is text: control characters are written out, and neither markup nor emoji codes are read.
    """
    from rich.console import Console
    from rich.text import Text

    class Plain(Console):
        # Every title, heading and cell that is given as a str comes through here, to be measured and to be printed.
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(visible(text), **options)

    return Plain(width=None if sys.stdout.isatty() else width, markup=False, emoji=False)
