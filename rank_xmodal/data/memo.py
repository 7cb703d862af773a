"""Keeping what was computed of an embedding set for whoever asks next."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Concatenate, ParamSpec, TypeVar

from rank_xmodal.data.embedding_set import EmbeddingSet

P = ParamSpec("P")
R = TypeVar("R")
Of = Callable[Concatenate[EmbeddingSet, P], R]


def by_fingerprint(most: int) -> Callable[[Of[P, R]], Of[P, R]]:
    """Keep a function's last `most` results; a set is told from others by its fingerprint."""

    def decorate(function: Of[P, R]) -> Of[P, R]:
        kept: OrderedDict[Hashable, R] = OrderedDict()

        @functools.wraps(function)
        def asked(data: EmbeddingSet, /, *args: P.args, **named: P.kwargs) -> R:
            key = (data.fingerprint, args, tuple(sorted(named.items())))
            if key not in kept:
                kept[key] = function(data, *args, **named)
                while len(kept) > most:
                    kept.popitem(last=False)
            kept.move_to_end(key)
            return kept[key]

        return asked

    return decorate
