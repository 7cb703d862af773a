"""Parts of a work for the tests: of a module that other processes can import."""

import os
import signal
import time
from pathlib import Path

from rank_xmodal.errors import UserError


def times(factor):
    """Return what multiplies, and says in which process."""
    return lambda part: (factor * part, os.getpid())


def failing(at):
    def work(part):
        if part == at:
            raise UserError(f"part {part} is bad.")
        return part

    return work


def locked():
    raise UserError("the door is locked.")


def breaking():
    return lambda part: 1 // part


def dying(note, at, always=False):
    """Return what kills its process at a part: the first time, or always."""

    def work(part):
        if part == at and (always or not Path(note).exists()):
            with Path(note).open("a", encoding="utf-8") as out:
                out.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return part

    return work


def mortal():
    os.kill(os.getpid(), signal.SIGKILL)


def reading(note):
    said = Path(note).read_text(encoding="utf-8")
    return lambda part: said


def slow(folder):
    """Return what notes that a part began, and takes its time."""

    def work(part):
        (Path(folder) / f"{part}-{os.getpid()}").touch()
        time.sleep(0.3)
        return part

    return work


def of_shared(get):
    return lambda part: float(get()[part])
