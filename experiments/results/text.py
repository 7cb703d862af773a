"""Ids, captions, names and paths so that nothing in them acts on a terminal or in Markdown."""

from __future__ import annotations

import re

# Control characters, what turns the direction of the text around it (Unicode's embeddings, overrides and isolates),
# what separates lines unseen, and halves of surrogate pairs: bytes of a path that are no UTF-8, and can't be written.
_ACTING = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str, keep: str = "\n\t") -> str:
    r"""Return text whose control characters are written out, ESC as \x1b; those in `keep` stay."""
    return _ACTING.sub(lambda found: found[0] if found[0] in keep else _written(ord(found[0])), text)


def _written(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def markdown(text: str) -> str:
    """Return text as Markdown that shows it, in one line, in a table's cell too."""
    return re.sub(r"([\\`*_\[\]<>|&~#])", r"\\\1", visible(" ".join(text.split())))
