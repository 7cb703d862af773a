"""One process at a time."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rank_xmodal.errors import UserError
from rank_xmodal.files.writing import recover, telling

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(folder: Path, doing: str, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process until the block ends, or the process does.

    The folder itself is locked: there is no lock file that could be left behind. File systems that can't lock folders
    are worked on without.

    Raises
    ------
    UserError
        If another process holds it, unless one is to `wait` for it; `doing` says in the message what it is at.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UserError(
                    f"{folder}: another process is {doing}. Wait for it, then run again; or choose another --out."
                ) from None
        yield
    finally:
        os.close(handle)


@contextmanager
def held(out: Path, doing: str) -> Iterator[None]:
    """Hold a folder of results, made if need be; where nothing was put into it, it goes again.

    Raises
    ------
    UserError
        If another process holds it, or it can't be made.
    """
    with telling(out):
        recover(out.parent)
        out.mkdir(parents=True, exist_ok=True)
        recover(out)
    with locked(out, doing):
        try:
            yield
        finally:
            with suppress(OSError):
                out.rmdir()  # which an empty folder alone lets happen
