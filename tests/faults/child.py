"""A command in a forked child: the product is imported already, so a case costs tenths of a second."""

import contextlib
import os
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import events, shim
from tests.faults.place import Place

NEVER = 1 << 40
LIMIT = 45  # seconds; a command that takes longer hangs


@dataclass(frozen=True)
class Fault:
    """What goes wrong in a child.

    `kind` is count, once, full, short or kill, as the library calls it, or event (dies before the n-th audit event) or
    events (counts those).
    """

    kind: str
    at: int = NEVER
    errno: int = 0
    before: Callable[[], None] | None = None


@dataclass(frozen=True)
class Ended:
    """How a child ended: exit code, or minus the signal; what it said; how many operations it did, and which."""

    code: int
    said: str
    seconds: float
    steps: list[str] = field(default_factory=list)

    @property
    def traceback(self) -> bool:
        """Whether it ended by an exception that nobody caught."""
        return "Traceback (most recent call last)" in self.said

    def exception(self) -> str:
        """Return the last line of the last traceback that it printed."""
        lines = self.said[self.said.rfind("Traceback (most recent call last)") :].splitlines()[1:]
        return next((line for line in lines if line and not line.startswith(" ")), "?")[:300]

    def last(self, lines: int = 4) -> str:
        """Return the last lines of what it said."""
        return " | ".join(self.said.strip().splitlines()[-lines:])


@dataclass
class Running:
    """A child that was started."""

    pid: int
    said: Path
    trace: Path
    started: float

    def kill(self) -> None:
        """End it as kill -9 does."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, limit: float = LIMIT, kill_after: float | None = None) -> Ended:
        """Wait for its end; past `limit` seconds it is killed and counts as hanging (code -14)."""
        handle = os.pidfd_open(self.pid)
        try:
            hung = False
            patience = limit if kill_after is None else kill_after
            if not select.select([handle], [], [], patience)[0]:
                hung = kill_after is None
                self.kill()
            _, status = os.waitpid(self.pid, 0)
        finally:
            os.close(handle)
        code = -signal.SIGALRM if hung else os.waitstatus_to_exitcode(status)
        said = self.said.read_text(encoding="utf-8", errors="replace")
        steps = self.trace.read_text(encoding="utf-8", errors="replace").splitlines()
        return Ended(code, said, time.monotonic() - self.started, steps)


def start(place: Place, arguments: tuple[str, ...], fault: Fault | None = None, name: str = "one") -> Running:
    """Run a command of ours in a child, in the work folder."""
    return fork(place, lambda: _command(arguments), fault, name)


def run(place: Place, arguments: tuple[str, ...], fault: Fault | None = None, kill_after: float | None = None) -> Ended:
    """Run a command to its end."""
    return start(place, arguments, fault).wait(kill_after=kill_after)


def fork(place: Place, work: Callable[[], int], fault: Fault | None = None, name: str = "one") -> Running:
    """Do `work` in a child; what it returns is the exit code."""
    running = Running(0, place.base / f"{name}.said", place.base / f"{name}.trace", time.monotonic())
    running.trace.write_bytes(b"")
    sys.stdout.flush()
    sys.stderr.flush()
    running.pid = os.fork()
    if running.pid == 0:
        _child(place, work, fault, running)
    return running


def _child(place: Place, work: Callable[[], int], fault: Fault | None, running: Running) -> None:
    code = 70
    try:
        said = os.open(running.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        trace = os.open(running.trace, os.O_WRONLY | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.chdir(place.work)
        tempfile.tempdir = str(place.tmp)
        os.environ["TMPDIR"] = str(place.tmp)
        _arm(place, fault, trace)
        code = work()
    except BaseException:
        with contextlib.suppress(BaseException):
            traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _arm(place: Place, fault: Fault | None, trace: int) -> None:
    if fault is None:
        return
    if fault.before is not None:
        fault.before()
    if fault.kind in ("event", "events"):

        def told(number: int, what: str) -> None:
            if fault.kind == "events" or number == fault.at:
                os.write(trace, f"{what}\n".encode())
            if number == fault.at:
                events.die()

        events.watch(place.disk, told)
    elif fault.kind != "none":
        shim.arm(place.disk, fault.at, fault.kind, fault.errno, trace)


def _command(arguments: tuple[str, ...]) -> int:
    """Run the command line as its entry point does; an exception is printed as Python's own end would."""
    from experiments.cli.main import main

    try:
        main(list(arguments))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0
