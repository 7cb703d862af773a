"""File events as Python's audit hooks tell of them, counted in a child; it dies before the n-th.

Coarser than the preloaded library, for the writes of C++ and SQLite raise no events, but it needs no compiler.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# By event: which argument is the path that changes, and which the folder it is relative to.
_CHANGES = {
    "os.rename": (1, 3),
    "os.remove": (0, 1),
    "os.mkdir": (0, 2),
    "os.rmdir": (0, 1),
    "os.chmod": (0, 2),
    "os.truncate": (0, None),
    "os.link": (1, 3),
    "os.symlink": (1, 2),
    "os.utime": (0, 3),
    "shutil.rmtree": (0, 1),
    "shutil.copyfile": (1, None),
    "sqlite3.connect": (0, None),
}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def watch(folder: Path, told: Callable[[int, str], None]) -> None:
    """Call `told` with number and description of each event below `folder`, before it happens."""
    count = 0
    inside = f"{folder}/"

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            path, relative_to = (arguments[0] if (arguments[2] or 0) & _WRITES else None), None
        elif event in _CHANGES:
            at, base = _CHANGES[event]
            path, relative_to = arguments[at], arguments[base] if base is not None else None
        else:
            return
        full = _full(path, relative_to)
        if full.startswith(inside):
            count += 1
            told(count, f"{event} {full.removeprefix(inside)}")

    sys.addaudithook(hook)


def _full(path: Any, folder: Any) -> str:
    if path is None:
        return ""
    if isinstance(path, int):
        return _of_descriptor(path)
    text = os.fsdecode(path)
    if os.path.isabs(text):
        return text
    base = _of_descriptor(folder) if isinstance(folder, int) and folder >= 0 else os.getcwd()
    return f"{base}/{text}"


def _of_descriptor(number: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""


def die() -> None:
    """Die at once, as by kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)
