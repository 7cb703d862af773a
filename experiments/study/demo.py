"""`make demo`: the whole road on a corpus that is drawn on the spot."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import yaml
from rich.console import Console

from data_prep.datasets import load
from data_prep.embed import embed
from data_prep.encoder import load_encoder
from experiments.report.plots import plot_comparison
from experiments.results.names import run_name
from experiments.run.terminal import step_bar
from experiments.run.train import run_training
from experiments.study.compare import as_tables, from_folders, summarise
from rank_xmodal.errors import UserError
from rank_xmodal.scorers import settings

CONFIG = Path(__file__).with_name("demo.yaml")
_KEYS = {"dataset", "root", "model", "pretrained", "data", "runs", "losses", "directions", "settings"}


def run(config: Path | None, tracking: Path, say: Callable[[str], None] = print) -> None:
    """Draw, embed, mine, train every loss in both directions and print the comparison.

    What an earlier call finished is kept; what it left unfinished goes on.

    Raises
    ------
    UserError
        If the configuration has an unknown or a missing key, or as the stages.
    """
    path = config or CONFIG
    try:
        plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: can't be read ({error}).") from error
    if not isinstance(plan, dict) or set(plan) != _KEYS:
        odd = sorted(set(plan) ^ _KEYS) if isinstance(plan, dict) else []
        raise UserError(f"{path}: must have exactly the keys {', '.join(sorted(_KEYS))}; see {odd}.")
    started = time.monotonic()
    corpus = load(plan["dataset"], Path(plan["root"]), say=say)
    data = embed(corpus, load_encoder(plan["model"], plan["pretrained"], say=say), Path(plan["data"]), say=say)
    folders = []
    for direction in plan["directions"]:
        for loss in plan["losses"]:
            chosen = settings.parse({**plan["settings"], "loss": loss}, str(path))
            out = Path(plan["runs"]) / run_name(chosen, direction)
            with step_bar(say) as (tell, on_step):
                run_training(data, direction, chosen, out, tracking=tracking, overwrite=True, say=tell, on_step=on_step)
            folders.append(out)
    console = Console(width=None if Console().is_terminal else 120)
    entries = from_folders(folders)
    for table in as_tables(entries, data.name):
        console.print(table)
    picture = Path(plan["runs"]) / "comparison.png"
    plot_comparison(summarise(entries), f"{data.name}, test", picture)
    say(f"demo: {time.monotonic() - started:.0f} s. Picture: {picture}. Side by side in MLflow: make ui")
