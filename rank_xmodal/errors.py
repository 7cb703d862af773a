"""The one exception that means "the user can mend this", and the nearest known name for its message."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


class UserError(Exception):
    """A bad input, said so that its author can mend it.

    The message names the file, row or parameter, the value found and the remedy.
    The command line prints it without a traceback and exits with status 2.
    """


def did_you_mean(name: object, known: Iterable[str], also: Mapping[str, str] | None = None) -> str:
    """Return " Did you mean 'listnet'?" for the known name nearest to `name`, "" where none is near.

    `also` are other words for some of them: {"learning_rate": "lr"}.
    """
    names = {one: one for one in known}
    names = {**{word: one for word, one in (also or {}).items() if one in names}, **names}
    close = get_close_matches(str(name).lower(), list(names), n=1, cutoff=0.5)
    return f" Did you mean {names[close[0]]!r}?" if close else ""


def first_line(error: Exception) -> str:
    """Return the first line of what another package's error says, 200 characters of it; its kind if it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
