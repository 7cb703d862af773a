"""Whatever scores a candidate list, by one interface.

    >>> from rank_xmodal import scorers
    >>> scorers.get("vsepp", margin=0.1).settings.margin
    0.1
    >>> vsepp = scorers.get("vsepp").fit(data, "t2i")  # doctest: +SKIP

A new scorer is a file of its own and a line in registry.py; see docs/extending.md.
"""

from __future__ import annotations

from rank_xmodal.lists.list_batch import ListBatch
from rank_xmodal.lists.needs import Needs
from rank_xmodal.scorers.base import Scorer
from rank_xmodal.scorers.registry import ALIASES, class_of, get, names, parse, read, register, upgraded
from rank_xmodal.scorers.settings import ScorerSettings
from rank_xmodal.scorers.stack import Stack

__all__ = [
    "ALIASES",
    "ListBatch",
    "Needs",
    "Scorer",
    "ScorerSettings",
    "Stack",
    "class_of",
    "get",
    "names",
    "parse",
    "read",
    "register",
    "upgraded",
]
