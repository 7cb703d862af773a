"""What a search is given beside embeddings: whether numbers, tokens and content are what it can take."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from rank_xmodal.lists.bags import TokenTable

_KINDS = ("tower", "layer", "path", "grid")


def kind_of(facts: Any) -> dict[str, Any]:
    """Return what meta.json says of tokens that decides whether a ranker can read them; {} where it has none."""
    if not isinstance(facts, dict):
        return {}
    both = facts.get("width")  # what older sets say
    told = {key: facts.get(key) for key in _KINDS if facts.get("tower") != "import"}
    return {
        **told,
        "normalised": facts.get("normalised", True),
        "image_width": facts.get("image_width", both),
        "text_width": facts.get("text_width", both),
    }


def differing(own: Any, other: Any) -> str:
    """Return in words where two sets' facts of tokens differ, "" where they don't; what one doesn't say is no matter.

    >>> differing({"path": "features", "text_width": 512}, {"path": "values", "text_width": 512})
    "path 'values' in place of 'features'"
    """
    ours, theirs = kind_of(own), kind_of(other)
    told = [key for key in ours if ours[key] is not None and theirs.get(key) is not None]
    return ", ".join(f"{key} {theirs[key]!r} in place of {ours[key]!r}" for key in told if ours[key] != theirs[key])


def checked_tokens(
    tokens: TokenTable | None, needed: bool, count: int, width: int | None, what: str, label: str
) -> TokenTable | None:
    """Return tokens that are given exactly where they are needed.

    Parameters
    ----------
    tokens : TokenTable or None
    needed : bool
    count : int
        How many items they belong to.
    width : int or None
        What the ranker was trained on; None where nobody knows.
    what, label : str
        What messages call the items and the scorer.

    Raises
    ------
    ValueError
        If they are missing, of no use, of another number of items or width, or an item has none.
    """
    if not needed:
        if tokens is not None:
            raise ValueError(f"tokens of the {what}: {label} reads none. Leave them out.")
        return None
    if not isinstance(tokens, TokenTable):
        raise ValueError(
            f"tokens={type(tokens).__name__}: {label} reads words and cells. Give those of the {what} as a TokenTable."
        )
    if len(tokens) != count:
        raise ValueError(f"tokens of {len(tokens)} items for {count} {what}: give those of each.")
    if tokens.values.ndim != 2 or (width is not None and tokens.width != width):
        raise ValueError(
            f"tokens of the {what} have shape {tuple(tokens.values.shape)}; this ranker takes "
            f"(n, {'width' if width is None else width})."
        )
    empty = (tokens.offsets.diff() < 1).nonzero()
    if len(empty):
        raise ValueError(f"tokens of the {what}: row {int(empty[0])} has none. Give it one, or leave it out.")
    return tokens


def checked_content(
    content: Sequence[str] | None, needed: bool, count: int, images: bool, what: str, label: str
) -> list[str] | None:
    """Return captions, or image files where `images`, that are given exactly where they are needed.

    Raises
    ------
    ValueError
        If they are missing, of no use, or not `count`.
    """
    if not needed:
        if content is not None:
            raise ValueError(f"content of the {what}: {label} looks at none. Leave it out.")
        return None
    if content is None or isinstance(content, str) or len(content) != count:
        found = "none" if content is None else "a str" if isinstance(content, str) else len(content)
        side = "image files" if images else "captions"
        raise ValueError(f"content of the {what}: {found} for {count} {what}. Give {label} a list of their {side}.")
    return [str(item) for item in content]


def whole(name: str, value: int, most: int | None = None) -> int:
    """Return a whole number from 1 to `most`, the size of a corpus.

    Raises
    ------
    ValueError
        If it is another; it is called by its name.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or (most is not None and number > most):
        limits = "of 1 or more" if most is None else f"between 1 and {most}, the size of the corpus"
        raise ValueError(f"{name}={value!r}: must be an integer {limits}.")
    return number


def as_array(given: Any) -> np.ndarray:
    """Return embeddings, a NumPy array or a tensor of any dtype on any device, as an array."""
    if isinstance(given, torch.Tensor):
        plain = given.detach().cpu()
        return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    return np.asarray(given)


def as_names(ids: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Return ids as an array that has them as they are.

    >>> as_names([3, 4]), as_names(["a", 4])  # NumPy alone would make '4' of the last
    (array([3, 4]), array(['a', 4], dtype=object))
    """
    found = np.asarray(ids)
    if hasattr(ids, "dtype"):
        return found
    given = np.asarray(ids, dtype=object)
    return found if found.tolist() == given.tolist() else given


def checked_ids(ids: Sequence[Any] | np.ndarray | None, count: int, first: int = 0) -> np.ndarray:
    """Return one id for each of `count` embeddings: numbers from `first` on if None.

    Raises
    ------
    ValueError
        If they are not one for each.
    """
    names = np.arange(first, first + count) if ids is None else as_names(ids)
    if names.shape != (count,):
        raise ValueError(f"ids of shape {names.shape} for {count} embeddings: give one id for each.")
    return names


def once(rows: np.ndarray) -> np.ndarray:
    """Return rows (Q, L) with -1 in place of what a query names again.

    >>> once(np.array([[3, 7, 3], [5, -1, 5]]))
    array([[ 3,  7, -1],
           [ 5, -1, -1]])
    """
    order = np.argsort(rows, axis=1, kind="stable")
    ascending = np.take_along_axis(rows, order, 1)
    again = np.zeros(rows.shape, dtype=bool)
    np.put_along_axis(again, order[:, 1:], ascending[:, 1:] == ascending[:, :-1], 1)
    return np.where(again, -1, rows)
