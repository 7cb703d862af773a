"""Work on an embedding set that is kept beside it until the set has all of it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from typing_extensions import Self

from rank_xmodal.errors import UserError
from rank_xmodal.files import held, not_ours, read_json, remove, sha256, telling, write_json

_MARKER = "settings.json"


class KeptWork:
    """The folder .NAME.KIND beside an embedding set NAME; a context in which this process alone is at it.

    What was done with other settings is thrown away on entering.

    Parameters
    ----------
    out : Path
        The embedding set, there or to be.
    kind : str
    settings : dict
        What decides the work, as JSON can hold it.
    ours : pattern
        Names of the files in it. A folder that holds others is nobody's to empty.
    say : callable

    Attributes
    ----------
    out, settings
        As given; `out` without links.
    folder : Path
    """

    def __init__(
        self, out: Path, kind: str, settings: dict[str, Any], ours: re.Pattern[str], say: Callable[[str], None]
    ) -> None:
        out = Path(os.path.realpath(out))
        self.out = out
        self.folder = out.with_name(f".{out.name}.{kind}")
        self.settings, self.say = settings, say
        self._ours = re.compile(f"{re.escape(_MARKER)}|{ours.pattern}")
        self._held = ExitStack()

    def __enter__(self) -> Self:
        """Hold the folder.

        Raises
        ------
        UserError
            If it can't be written, holds what is no such work, or another process is at it.
        """
        self._held.enter_context(held(self.folder, "embedding into the same --out"))
        try:
            self._begin()
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Let others have it."""
        self._held.close()

    @property
    def digest(self) -> str:
        """SHA-256 of the settings."""
        return sha256(json.dumps(self.settings, sort_keys=True).encode())

    @staticmethod
    def check_seen(folder: Path) -> None:
        """Find out whether a worker sees the folder of a work, before it makes one of its own.

        Raises
        ------
        UserError
            If there is none.
        """
        if not (folder / _MARKER).is_file():
            raise UserError(
                f"{folder}: a worker doesn't see this folder of the command that it works for. Put --out on a disk "
                "that all machines share."
            )

    @property
    def _found(self) -> dict[str, Any] | None:
        try:
            found = read_json(self.folder / _MARKER)
        except UserError:
            return None
        return found if isinstance(found, dict) else None

    def _begin(self) -> None:
        found = self._found
        if found == self.settings:
            return
        other = not_ours(self.folder, self._ours)
        if other:
            raise UserError(f"{self.folder}: holds {other!r}, which is no work of embed. Move the folder away.")
        if found is not None:
            keys = [key for key in self.settings if found.get(key) != self.settings[key]]
            self.say(f"{self.folder}: partial work of another {', '.join(keys)} is thrown away")
        with telling(self.folder):
            for path in self.folder.iterdir():
                path.unlink()
        write_json(self.folder / _MARKER, self.settings)

    def remove(self) -> None:
        """Delete the folder: the set has all of it."""
        with suppress(OSError):
            remove(self.folder)

    def discard(self) -> None:
        """Delete what a process of these settings left that was killed at its very end; another's work stays."""
        if self._found == self.settings:
            with suppress(UserError, OSError), held(self.folder, "embedding"):
                self.remove()
