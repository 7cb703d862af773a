"""Verbs that compare settings: compare, study, grid, paper, demo, ui."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from experiments.cli import options
from experiments.cli.options import PATH, say
from experiments.cli.terminal import console, echo
from rank_xmodal.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from experiments.study.plan import Plan
    from experiments.study.table import Table

_REPEATS = options.count(1, 10_000)  # each is a training of every row
_data = click.option("--data", type=PATH, required=True, help="An embedding set.")
_set = click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A setting of all rows that lack it; repeatable."
)
_format = click.option(
    "--format", "style", type=click.Choice(["terminal", "csv", "markdown", "latex"]), default="terminal",
    show_default=True, help="csv: everything, unrounded. Shares are in % in all of them.",
)  # fmt: skip
_plots = click.option("--plots", type=PATH, help="Draw recall.png and rank_shifts.png into that folder.")


def _show(table: Table, style: str = "terminal") -> None:
    from experiments.study import formats

    if style != "terminal":
        echo(formats.TEXTS[style](table), nl=False)
        return
    for shown in formats.terminal(table):
        console().print(shown)


def _draw(table: Table, folder: Path | None) -> None:
    """Draw a table's pictures, of several protocols one each."""
    from experiments.report.plots import plot_recall, plot_shifts
    from experiments.study.table import shifts_of

    protocols = list(dict.fromkeys(protocol for protocol, _ in table.blocks)) if folder else []
    for protocol in protocols:
        blocks = {str(way): lines for (of, way), lines in table.blocks.items() if of == protocol}
        ceilings = {way: 100 * lines[0].outcomes[0].report["ceiling"] for way, lines in blocks.items()}
        suffix = f"-{protocol}" if len(protocols) > 1 else ""
        made = [Path(folder or "") / f"recall{suffix}.png"]
        plot_recall(table.figures(protocol), ceilings, table.title, made[0])
        shifts = {way: found for way, lines in blocks.items() if (found := shifts_of(lines))}
        if shifts:
            made.append(made[0].with_name(f"rank_shifts{suffix}.png"))
            plot_shifts(shifts, table.title, made[1], against=next(iter(blocks.values()))[0].row)
        else:
            say("No run has its queries' figures (test.parquet): rank_shifts.png is left out.")
        for path in made:
            say(f"wrote {path}")


def _plan(name: str, assignments: Sequence[str]) -> Plan:
    """Read a plan, given as a path or by the name of one that comes along."""
    from experiments.study import plan
    from rank_xmodal.devices import pick_device

    ours = {path.stem: path for path in sorted(plan.FOLDER.glob("*.yaml")) if path.stem != "demo"}
    found = Path(name) if Path(name).is_file() else ours.get(name)
    if found is None:
        raise UserError(f"{name}: no such file or plan.{did_you_mean(name, ours)} Plans are {', '.join(ours)}.")
    read = plan.read(found, list(assignments))
    for name in {row.settings.device for row in read.trained.values()}:
        pick_device(name)
    return read


@click.command()
@click.argument("runs", nargs=-1, type=PATH)
@click.option("--experiment", help="All finished runs of an MLflow experiment.")
@options.tracking
@_format
@_plots
def compare(runs: tuple[Path, ...], experiment: str | None, mlruns: Path, style: str, plots: Path | None) -> None:
    """Show runs side by side, CLIP and CSLS first; of several seeds the mean and standard deviation."""
    from experiments.results.folders import finished_runs
    from experiments.study.compare import as_table, from_experiment, from_folders

    if bool(runs) == bool(experiment):
        raise UserError("compare: name runs' folders, or an --experiment.")
    found = from_experiment(mlruns, experiment, say) if experiment else from_folders(finished_runs(runs, say))
    table = as_table(found, experiment or "runs")
    _show(table, style)
    _draw(table, plots)


@click.command()
@click.argument("plan")
@_data
@click.option("--seeds", type=_REPEATS, help="On the set's own splits; 5, unless the plan says otherwise.")
@click.option("--folds", type=options.count(2), help="Folds instead of the set's own splits.")
@click.option("--permutations", type=_REPEATS, help="Of the folds; 2, unless the plan says otherwise.")
@_set
@click.option("--direction", type=click.Choice([*options.DIRECTIONS, "both"]), default="both", show_default=True)
@_format
@_plots
@click.option("--out", type=PATH, help="Keeps trials and tables; runs/PLAN-DATA by default.")
@options.tracking
@options.parallel
def study(
    plan: str, data: Path, assignments: tuple[str, ...], direction: str, style: str, plots: Path | None,
    out: Path | None, mlruns: Path, parallel: str, **counts: Any,
) -> None:  # fmt: skip
    """Fill the table of a PLAN: a YAML file, or one that comes along, e.g. ablation or losses.

    Each row is trained on every fold or with every seed, in the way of `train`. Stopped, the same command goes on.
    """
    chosen = _plan(plan, assignments).model_copy(update={key: n for key, n in counts.items() if n is not None})
    _study(chosen, data, direction, out, mlruns, style, plots, parallel)


def _study(
    plan: Plan, folder: Path, direction: str, out: Path | None, mlruns: Path, style: str, plots: Path | None,
    parallel: str = "1",
) -> None:  # fmt: skip
    from experiments.study import engine
    from rank_xmodal.data.embedding_set import EmbeddingSet, check_direction
    from rank_xmodal.parallel import executor_named

    data = EmbeddingSet.open(folder)
    directions = [check_direction(way) for way in (options.DIRECTIONS if direction == "both" else [direction])]
    out = out or Path("runs") / f"{plan.name}-{data.name}"
    with executor_named(parallel) as executor:
        table = engine.study(plan, data, directions, out, tracking=mlruns, say=say, executor=executor)
    _show(table, style)
    _draw(table, plots)
    say(f"wrote {out / 'table.csv'} and {out / 'table.md'}")


@click.command()
@click.argument("plan", default="grid")
@_data
@options.direction
@_set
@click.option("--out", type=PATH, help="Keeps trials, points.csv and best.yaml; runs/grid-DATA by default.")
@options.tracking
@options.parallel
def grid(
    plan: str, data: Path, direction: str, assignments: tuple[str, ...], out: Path | None, mlruns: Path, parallel: str
) -> None:
    """Search a PLAN's grid, judged on the validation split; by default the sizes of the paper's model and lr.

    The best point's settings are written for `train --config`. In MLflow the search is a run, each point one nested
    under it. Stopped, the same command goes on.
    """
    from experiments.study.grid import search
    from rank_xmodal.data.embedding_set import EmbeddingSet, check_direction
    from rank_xmodal.parallel import executor_named

    chosen, opened, way = _plan(plan, assignments), EmbeddingSet.open(data), check_direction(direction)
    points, sizes = len(chosen.trained), " x ".join(f"{len(values)} {key}" for key, values in chosen.grid.items())
    say(f"{points} point{'s' * (points > 1)}: {sizes}")
    folder = (out or Path("runs") / f"grid-{opened.name}") / direction
    with executor_named(parallel) as executor:
        table, best = search(chosen, opened, way, folder, tracking=mlruns, say=say, executor=executor)
    _show(table)
    echo(f"The best point's settings: {best} (rank-xmodal train --config {best})")


@click.command()
@_data
@click.option("--full", is_flag=True, help="The recipe to the letter: 100 epochs, 5 seeds.")
@click.option("--baselines", is_flag=True, help="The baselines and our ranker alone, on the gallery alone.")
@click.option("--epochs", type=options.count(1), help="Of the trainings on lists; 3 by default.")
@click.option("--seeds", type=_REPEATS, help="1 by default.")
@_format
@_plots
@click.option("--out", type=PATH, help="Keeps trials and tables; runs/paper-DATA or runs/baselines-DATA by default.")
@options.tracking
@options.device
def paper(
    data: Path, full: bool, baselines: bool, epochs: int | None, seeds: int | None, style: str, plots: Path | None,
    out: Path | None, mlruns: Path, device: str,
) -> None:  # fmt: skip
    """Fill the paper's Table 2, every row on the same lists, under three protocols; published figures beside."""
    from importlib.util import find_spec

    plan = _plan("baselines" if baselines else "paper", [f"device={device}"])
    epochs, seeds = epochs or (100 if full else 3), seeds or (5 if full else 1)
    trained = {}
    for name, row in plan.trained.items():
        if row.settings.scorer == "allrank" and not find_spec("allrank"):
            say(f"{name}: allRank is not installed; the row is left out.")
            continue
        if row.as_judged:
            row = replace(row, settings=row.settings.model_copy(update={"epochs": epochs, "patience": epochs}))
        trained[name] = row
    changed: dict[str, Any] = {"seeds": seeds, "trained": trained, "note": f"{epochs} epochs of the paper's recipe."}
    _study(plan.model_copy(update=changed), data, "both", out, mlruns, style, plots)


@click.command()
@click.option("--config", type=PATH, help="By default the demo's own, demo.yaml of the plans.")
@options.tracking
def demo(config: Path | None, mlruns: Path) -> None:
    """Go the whole road on the corpus scenes: draw, embed, mine, train four losses in both directions, compare."""
    from experiments.study.demo import run

    _show(run(config, mlruns, say))


@click.command()
@options.tracking
@click.option("--port", type=click.IntRange(1, 65_535), default=5_000, show_default=True)
def ui(mlruns: Path, port: int) -> None:
    """Serve MLflow's pages of all runs on this machine, and print where they show the figures."""
    from experiments.run.ui import serve

    serve(mlruns, port, echo)


COMMANDS = (compare, study, grid, paper, demo, ui)
