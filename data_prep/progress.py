"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_EVERY = 10.0  # seconds between two plain lines


@dataclass
class StageTimes:
    """Where the time of a stage went, in seconds; the largest is what limits the run."""

    label: str
    items: int = 0
    read: float = 0.0
    compute: float = 0.0
    write: float = 0.0

    def __str__(self) -> str:
        total = self.read + self.compute + self.write
        return (
            f"{self.label}: {self.items:,} encoded in {total:.1f} s ({self.items / max(total, 1e-9):,.0f}/s): "
            f"waiting for files {self.read:.1f} s, model {self.compute:.1f} s, writing {self.write:.1f} s"
        )


@contextmanager
def progress_bar(
    label: str, total: int, done: int = 0, say: Callable[[str], None] = print, show: bool = True
) -> Iterator[Callable[[int], None]]:
    """Yield a function that counts finished items.

    Parameters
    ----------
    label : str
        What is counted, e.g. "images".
    total, done : int
        How many there are, and how many were finished before.
    show : bool
        False: show nothing.
    """
    if not show:
        yield lambda count: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(label, total=total, completed=done)
            yield lambda count: bar.advance(task, count)
    else:
        yield _lines(label, total, done, say)


def _lines(label: str, total: int, done: int, say: Callable[[str], None]) -> Callable[[int], None]:
    start = last = time.monotonic()
    begun = done

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last >= _EVERY:
            last = now
            rate = (done - begun) / (now - start)
            say(f"{label}: {done:,} of {total:,} ({rate:,.0f}/s, {(total - done) / rate:,.0f} s to go)")

    return advance
