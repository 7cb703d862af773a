"""The verb that shares a ranker: push."""

from __future__ import annotations

from pathlib import Path

import click

from experiments.cli.options import PATH
from experiments.cli.terminal import echo


@click.command()
@click.argument("run", type=PATH)
@click.argument("name", metavar="USER/NAME")
@click.option("--licence", default="mit", show_default=True, help="As the Hub calls it: mit, apache-2.0, cc-by-4.0 ...")
@click.option("--private", is_flag=True, help="Others may not see it.")
def push(run: Path, name: str, licence: str, private: bool) -> None:
    """Upload a trained ranker to the Hugging Face Hub: `Reranker.from_pretrained("USER/NAME")` loads it.

    Its query bank, embeddings of training queries, goes with it. Log in by `hf auth login` before.
    """
    from rank_xmodal.use.reranker import Reranker

    echo(Reranker.from_pretrained(run, "cpu").push_to_hub(name, licence=licence, private=private))


COMMANDS = (push,)
