"""A bar for the steps of an epoch beneath the lines of progress; without a terminal, the lines alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from experiments.results.text import visible

Say = Callable[[str], None]
OnStep = Callable[[int, int, int], None]


@contextmanager
def step_bar(say: Say) -> Iterator[tuple[Say, OnStep]]:
    """Yield a `say` that doesn't write into the bar, and a function that takes epoch, step and steps in an epoch."""
    if not sys.stderr.isatty():
        yield say, lambda epoch, step, steps: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("preparing", total=None)

        def on_step(epoch: int, step: int, steps: int) -> None:
            bar.update(task, description=f"epoch {epoch}", completed=step, total=steps)

        yield lambda line: bar.console.print(visible(line), markup=False, highlight=False, emoji=False), on_step
