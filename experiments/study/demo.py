"""The demo: the whole road on a corpus that is drawn on the spot."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from data_prep.datasets import load
from data_prep.embed import embed
from data_prep.encoder import load_encoder
from experiments.report.plots import plot_comparison
from experiments.results.names import run_name
from experiments.run.terminal import step_bar
from experiments.run.train import run_training
from experiments.study.compare import as_table, from_folders
from experiments.study.plan import FOLDER
from experiments.study.table import Table
from rank_xmodal import scorers
from rank_xmodal.errors import UserError
from rank_xmodal.files import read_yaml

_KEYS = ("dataset", "root", "model", "pretrained", "data", "runs", "losses", "directions", "settings")


def run(config: Path | None, tracking: Path, say: Callable[[str], None] = print) -> Table:
    """Draw, embed, mine, train every loss in every direction, and return the comparison; its picture is drawn.

    What an earlier call finished is kept; what it left unfinished goes on.
    """
    path, started = config or FOLDER / "demo.yaml", time.monotonic()
    plan, folders = read_yaml(path), []
    if odd := ", ".join(sorted({*_KEYS} ^ {*plan})):
        raise UserError(f"{path}: must have exactly the keys {', '.join(_KEYS)}; see {odd}.")
    corpus = load(plan["dataset"], Path(plan["root"]), say=say)
    data = embed(corpus, load_encoder(plan["model"], plan["pretrained"], say=say), Path(plan["data"]), say=say)
    for direction in plan["directions"]:
        for loss in plan["losses"]:
            settings = scorers.parse({**(plan["settings"] or {}), "loss": loss}, str(path))
            out = Path(plan["runs"]) / run_name(settings, direction)
            with step_bar(say) as (tell, on_step):
                run_training(
                    data, direction, settings, out, tracking=tracking, overwrite=True, say=tell, on_step=on_step
                )
            folders.append(out)
    table = as_table(from_folders(folders), data.name)
    picture = Path(plan["runs"]) / "comparison.png"
    plot_comparison(table.figures(), f"{data.name}, test", picture)
    say(f"demo: {time.monotonic() - started:.0f} s. Picture: {picture}. Side by side in MLflow: make ui")
    return table
