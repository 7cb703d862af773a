"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_EVERY = 10.0  # seconds between two plain lines


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
