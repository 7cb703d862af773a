"""Which of the paths that a shell's `runs/*` gives are finished runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path


def finished_runs(paths: Sequence[Path], say: Callable[[str], None] = print) -> list[Path]:
    """Return those that hold a finished run; `say` is told of each of the others why it is left out.

    What isn't there at all stays, for a name may be misspelt; and so do all where none is a run. Whoever reads them
    says what is wrong.
    """
    why = {path: _no_run(path) for path in paths}
    if all(why.values()):
        return list(paths)
    for path, reason in why.items():
        if reason:
            say(f"{path}: {reason}; it is left out.")
    return [path for path in paths if not why[path]]


def _no_run(path: Path) -> str:
    """Say why a path is no finished run, "" where it is one, or is not there."""
    if not path.exists() or (path / "config.json").is_file():
        return ""
    if not path.is_dir():
        return "is a file and no run's folder"
    if (path / "checkpoint").is_dir():
        return "its training is unfinished, and goes on by the same command"
    if (path / "trials").is_dir():
        return "is a study's, with a table of its own (table.md)"
    return "holds no run (no config.json)"
