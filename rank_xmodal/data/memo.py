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


def memo(
    most: int, of: Callable[[EmbeddingSet], Hashable] = lambda data: data.fingerprint
) -> Callable[[Of[P, R]], Of[P, R]]:
    """Keep a function's last `most` results; a set is told from others by `of`, by default its fingerprint."""

    def decorate(function: Of[P, R]) -> Of[P, R]:
        kept: OrderedDict[Hashable, tuple[R, EmbeddingSet]] = OrderedDict()

        @functools.wraps(function)
        def asked(data: EmbeddingSet, /, *args: P.args, **named: P.kwargs) -> R:
            key = (of(data), args, tuple(sorted(named.items())))
            if key not in kept:
                kept[key] = (function(data, *args, **named), data)  # held, so that no other takes its identity
                while len(kept) > most:
                    kept.popitem(last=False)
            kept.move_to_end(key)
            return kept[key][0]

        return asked

    return decorate


def same_items(data: EmbeddingSet) -> Hashable:
    """Tell sets apart by their items alone: one of other splits is the same."""
    return id(data.image_emb), id(data.text_emb), id(data.relevance)
