"""The verb that lets a shell complete the others: completion."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from experiments.cli.terminal import echo
from rank_xmodal.errors import UserError


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what lets a shell complete verbs and options: eval "$(rank-xmodal completion bash)"."""
    kind = get_completion_class(shell)
    if kind is None:
        raise UserError(f"completion: click knows no {shell}. Choose bash, zsh or fish.")
    whole = context.find_root().command
    echo(kind(whole, {}, "rank-xmodal", "_RANK_XMODAL_COMPLETE").source())


COMMANDS = (completion,)
