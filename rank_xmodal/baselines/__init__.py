"""Rankings to compare a ranker with: some need no training, some learn maps of the frozen embeddings.

    >>> from rank_xmodal import baselines
    >>> baseline = baselines.get("cca").fit(data, "t2i")  # doctest: +SKIP
    >>> scores = score_lists(baseline.score, tensors)  # doctest: +SKIP

A new baseline is a file of its own, an import and an entry in the table below.
"""

from __future__ import annotations

from collections.abc import Callable

from rank_xmodal.baselines.base import Baseline
from rank_xmodal.baselines.cca import CCA
from rank_xmodal.baselines.clip import CLIP
from rank_xmodal.baselines.cmpm import CMPM
from rank_xmodal.baselines.csls import CSLS
from rank_xmodal.baselines.dcca import DCCA
from rank_xmodal.baselines.inverted_softmax import InvertedSoftmax
from rank_xmodal.baselines.vsepp import VSEPP
from rank_xmodal.errors import UserError
from rank_xmodal.losses.registry import nearest

__all__ = ["BASELINES", "CCA", "CLIP", "CMPM", "CSLS", "DCCA", "VSEPP", "Baseline", "InvertedSoftmax", "get"]

BASELINES: dict[str, Callable[[], Baseline]] = {
    "clip": CLIP,
    "csls": CSLS,
    "inverted_softmax": InvertedSoftmax,
    "cca": CCA,
    "dcca": DCCA,
    "cmpm": CMPM,
    "vsepp": VSEPP,
}


def get(name: str) -> Baseline:
    """Return a new baseline of that name, with its default settings.

    Raises
    ------
    UserError
        An unknown name; names the nearest known one.
    """
    if name not in BASELINES:
        raise UserError(f"unknown baseline {name!r}.{nearest(name, list(BASELINES))} Baselines: {', '.join(BASELINES)}")
    return BASELINES[name]()
