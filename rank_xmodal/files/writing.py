"""Writing so that a reader never sees half a file, whatever ends the writer: a kill, a full disk, the power."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rank_xmodal.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _host() -> str:
    """Return what says where a process number means something: a machine, or a container of one."""
    try:
        inside = os.readlink("/proc/self/ns/pid")
    except OSError:  # no Linux
        inside = ""
    return hashlib.sha256(f"{platform.node()} {inside}".encode()).hexdigest()[:6]


_HOST = _host()
_LIFE = secrets.token_hex(3)  # of this process: where processes are few, as in containers, numbers come again
_LEFT = re.compile(  # a journal is SQLite's
    r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{6})-(?P<pid>\d+)-(?P<life>[0-9a-f]{6})\.(?P<kind>part|old)(-journal)?"
)
_MINUTE, _DAY = 60.0, 86_400.0
_MANY = 64  # files from which on the whole disk is flushed at once


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, a file or a folder to be; move it there once the block succeeds.

    Whatever stood at `path` stays until then, and stays if the block fails; the temporary path is removed then. What a
    link names is replaced, the link stays. Both file and folder are flushed to the disk before and after the move: once
    the block is left, no loss of power takes the file away. What dead processes left beside it is removed (`recover`).

    Raises
    ------
    UserError
        If the disk is full or broken, or the place can't be written.
    """
    path = Path(os.path.realpath(path))
    part = _beside(path, "part")
    with telling(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            recover(path.parent)
            yield part
            _flush(part)
            if part.is_dir() and path.is_dir():
                _swap(part, path)
            else:
                os.replace(part, path)
            flush_folder(path.parent)
        finally:
            _remove(part)


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Turn what writing `path` throws into a UserError that says what to do; whatever isn't about files passes.

    Raises
    ------
    UserError
        If the disk is full or broken, or the place can't be written.
    """
    try:
        yield
    except Exception as error:
        # NumPy says "N requested and M written" without a number; safetensors has an exception of its own.
        said, number = str(error), getattr(error, "errno", None)
        if number in _FULL or "No space left" in said or re.search(r"\d requested and \d+ written", said):
            raise UserError(f"{path}: the disk is full. Nothing was changed; free some space and run again.") from error
        if isinstance(error, OSError) or "I/O error" in said or "IoError" in said:
            why = getattr(error, "strerror", None) or said
            raise UserError(f"{path}: can't be written ({why}). Choose another place with --out.") from error
        raise


def recover(folder: Path) -> None:
    """Put back what processes were about to replace in a folder when they died, and remove what else they left there.

    Of processes of another machine or container, which can't be asked for, only what is older than a day, or a minute
    where a folder would otherwise be missing.
    """
    with suppress(OSError):  # a place that may not be written to is nobody's to tidy
        for entry in list(os.scandir(folder)):
            found = _LEFT.fullmatch(entry.name)
            if found is None or not _dead(found, entry):
                continue
            own = Path(entry.path).with_name(found["name"])
            with suppress(OSError):  # another process may be at the same
                if found["kind"] == "old" and not own.exists():
                    os.rename(entry.path, own)
                else:
                    _remove(Path(entry.path))


def _dead(found: re.Match[str], entry: os.DirEntry[str]) -> bool:
    if found["host"] != _HOST:
        facts, now = entry.stat(follow_symlinks=False), time.time()
        if found["kind"] == "old" and not Path(entry.path).with_name(found["name"]).exists():
            return now - facts.st_ctime > _MINUTE  # amid a swap a folder is without its name for an instant
        return now - facts.st_mtime > _DAY
    if int(found["pid"]) == os.getpid():
        return found["life"] != _LIFE
    try:
        os.kill(int(found["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    return False


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{_HOST}-{os.getpid()}-{_LIFE}.{kind}")


def _swap(part: Path, path: Path) -> None:
    """Put a folder where another one stands, which no file system does in one step."""
    old = _beside(path, "old")
    os.rename(path, old)
    try:
        os.rename(part, path)
    except BaseException:
        os.rename(old, path)
        raise
    # From here on it is rubbish: half removed, it must not be taken for what was to be replaced.
    os.rename(old, part)


def not_ours(folder: Path, ours: re.Pattern[str]) -> str | None:
    """Return the name of something in a folder that we didn't put there, hidden files aside; None where all is ours."""
    names = (path.name for path in folder.glob("*"))
    return next((name for name in sorted(names) if name[0] != "." and not ours.fullmatch(name)), None)


def remove(path: Path) -> None:
    """Delete a folder that nobody shall meet half deleted; where there is none, nothing happens."""
    if path.exists():
        gone = _beside(path, "part")
        os.rename(path, gone)
        _remove(gone)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # where nothing could be made, there is nothing to remove
            path.unlink()


def _flush(part: Path) -> None:
    """Wait until the disk has a file, or all of a folder."""
    if not part.is_dir():
        _flush_file(part)
        return
    folders = [(Path(folder), names) for folder, _, names in os.walk(part)]
    if sum(len(names) for _, names in folders) > _MANY:
        os.sync()
        return
    for folder, names in folders:
        for name in names:
            _flush_file(folder / name)
        flush_folder(folder)


def _flush_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_folder(path: Path) -> None:
    """Wait until the disk knows what is called what in a folder."""
    with suppress(OSError):  # not every file system can, and Windows opens no folder
        _flush_file(path)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
