"""What maps a function over independent parts, and the simplest: here, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, TypeVar
from uuid import uuid4

from rank_xmodal.errors import UserError

P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")
TRIES = 5  # of a part whose worker or machine died

Open = Callable[[], Callable[[P], R]]
"""Called once where parts are worked on; returns what is called for each of them."""


@dataclass(frozen=True)
class Finished:
    """A part that ended.

    Attributes
    ----------
    number : int
        Which of the parts, from 0.
    result : object
        What the function returned; None if it failed.
    error : UserError or None
        Why it failed, or that its workers died.
    """

    number: int
    result: Any
    error: UserError | None = None

    def get(self) -> Any:
        """Return the result, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.result


class Executor(AbstractContextManager["Executor"], Protocol):
    """Works on parts; a context that ends what it started.

    Attributes
    ----------
    name : str
        As `--parallel` has it.
    workers : int
        How many parts are worked on at a time.
    """

    name: str
    workers: int

    def map(self, open_: Open[P, R], parts: Iterable[P], *, gpu: bool = False) -> Iterator[Finished]:
        """Yield every part once it has ended, in whatever order they do.

        What a worker died of (killed, out of memory, its machine gone) is tried again elsewhere, up to five times in
        all; results that were yielded stay. Parts are taken from the iterable when a worker is free soon, not before.

        Parameters
        ----------
        open_ : callable, () -> (part -> result)
            Of a module's top level, or a `functools.partial` of one: it is sent to the workers.
        parts : iterable
            Parts and results are sent, too.
        gpu : bool
            Whether a part wants a GPU for itself.

        Raises
        ------
        UserError
            If workers can't start. An error of another kind that a part raises is raised here.
        """
        ...

    def device(self, asked: str) -> str:
        """Return how a worker names the device that is called so here; "auto" is one of theirs."""
        ...

    def owned(self, value: T, again: Callable[[], T]) -> Callable[[], T]:
        """Return a function by which a worker gets a value of its own: this one in this process, else `again`'s."""
        ...

    def shared(self, value: T, again: Callable[[], T]) -> Callable[[], T]:
        """Return a function, fit to be sent, by which a worker gets a value that all of them read.

        Parameters
        ----------
        value : object
        again : callable, fit to be sent
            Makes the value anew in another process of this machine, e.g. by mapping its file.
        """
        ...


class Serial:
    """One part after the other, in this process."""

    name = "1"
    workers = 1

    def __enter__(self) -> Serial:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def map(self, open_: Open[P, R], parts: Iterable[P], *, gpu: bool = False) -> Iterator[Finished]:
        """Yield the parts in their order; see `Executor.map`."""
        work = cache(open_)
        for number, part in enumerate(parts):
            yield _attempt(work, number, part)

    def device(self, asked: str) -> str:
        """Return its name."""
        return asked

    def owned(self, value: T, again: Callable[[], T]) -> Callable[[], T]:
        """Return a function that returns the value."""
        return lambda: value

    shared = owned


class Worker:
    """Does parts wherever it is sent; what `open_` makes is kept there until another one is asked for."""

    def __init__(self, open_: Open[Any, Any]) -> None:
        self.open, self.name = open_, uuid4().hex  # another map opens anew: files may have changed since

    def __call__(self, number: int, part: Any) -> Finished:
        """Do one part."""
        return _attempt(self._opened, number, part)

    def _opened(self) -> Callable[[Any], Any]:
        if self.name not in _KEPT:
            _KEPT.clear()  # before the next is made: memory holds one
            _KEPT[self.name] = self.open()
        return _KEPT[self.name]


def _attempt(opened: Open[Any, Any], number: int, part: Any) -> Finished:
    try:
        return Finished(number, opened()(part))
    except UserError as error:
        return Finished(number, None, error)


_KEPT: dict[str, Callable[[Any], Any]] = {}  # in a worker's process
