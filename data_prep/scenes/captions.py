"""The demo's captions: five sentences a scene that differ in wording and in what they mention."""

from __future__ import annotations

import numpy as np

from data_prep.scenes.world import COLOURS, COLUMNS, ROWS, SHAPES, SIZES, Scene, Shape

_NUMBERS = {2: "two", 3: "three", 4: "four"}


def _noun(item: Shape, rng: np.random.Generator, *, size: bool) -> str:
    """Name a shape, now and then by a rarer word."""
    colour = item.colour if rng.random() < 0.8 else str(rng.choice(COLOURS[item.colour][1]))
    shape = item.shape if rng.random() < 0.8 else str(rng.choice(SHAPES[item.shape]))
    words = [colour, shape]
    if size and item.size != "medium":
        other = SIZES[item.size][1]
        words.insert(0, item.size if rng.random() < 0.6 else str(rng.choice(other)))
    return " ".join(words)


def _a(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def _place(item: Shape) -> str:
    row, column = ROWS[item.row], COLUMNS[item.column]
    if (row, column) == ("middle", "centre"):
        return "in the middle"
    if column == "centre":
        return f"at the {row}"
    if row == "middle":
        return f"on the {column}"
    return f"in the {row} {column} corner"


def _relation(a: Shape, b: Shape) -> str:
    if a.row != b.row:
        return "above" if a.row < b.row else "below"
    return "to the left of" if a.column < b.column else "to the right of"


def _list(nouns: list[str]) -> str:
    return nouns[0] if len(nouns) == 1 else ", ".join(nouns[:-1]) + " and " + nouns[-1]


def captions(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Return five sentences about the scene; no sentence tells everything, and none lies."""
    order = [scene.shapes[i] for i in rng.permutation(len(scene.shapes))]
    first, second = order[0], order[1]
    count = _NUMBERS[len(order)]
    texts = [
        f"There is {_a(_noun(first, rng, size=True))} {_relation(first, second)} {_a(_noun(second, rng, size=True))}.",
        f"Someone drew {_list([_a(_noun(s, rng, size=False)) for s in order])}.",
        f"We see {_a(_noun(first, rng, size=True))} {_place(first)} and {_a(_noun(order[-1], rng, size=False))} "
        f"{_place(order[-1])}, all on {scene.background}.",
        f"On a {scene.background} background lie {count} shapes, among them "
        f"{_list([_a(_noun(s, rng, size=True)) for s in order[:3]])}.",
        f"Look at the {_noun(second, rng, size=False)} {_place(second)}, "
        f"with {_a(_noun(first, rng, size=True))} nearby on the {scene.background} page.",
    ]
    return [texts[i] for i in rng.permutation(len(texts))]
