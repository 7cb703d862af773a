"""The one place that turns templates into HTML: always escaped, nothing undefined, no sign that steers a browser."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from experiments.report import charts
from experiments.results.result import row_label

if TYPE_CHECKING:
    from jinja2 import Environment

# What separates words or lines, but for the line feeds of the templates themselves.
_SPACE = re.compile("[\t\x0b-\r\x1c-\x1f\x85\u2028\u2029]")
# The other control characters, what turns the direction of the text around it (Unicode's embeddings, overrides and
# isolates), and halves of surrogate pairs, which no file can hold: they would act without being seen.
_UNSEEN = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def render(template: str, **values: Any) -> str:
    """Return a template of this package, filled in.

    Text in `values` stays text: it is escaped, and each control character in it becomes a space or U+FFFD, the
    replacement character.
    """
    page = _environment().get_template(template).render(**values)
    return _UNSEEN.sub("\ufffd", _SPACE.sub(" ", page))


def percent(share: float) -> str:
    """Return a share as people read it, "12.3 %", with a no-break space."""
    return f"{100 * share:.1f}\u00a0%"


def capital(label: str) -> str:
    """Return a label as it begins a line: "Centred cosine", but allRank as it is spelt."""
    return label.capitalize() if label.islower() else label


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # not every command writes a page

    environment = Environment(
        loader=PackageLoader("experiments.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(capital=capital, json=json.dumps, label=row_label, number="{:,}".format, percent=percent)
    environment.globals.update({name: getattr(charts, name) for name in ("Scale", "hue", "series", "shifts", "spread")})
    return environment
