"""What a scene may hold, and how one is drawn from a random generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# name -> (RGB, other words for it)
COLOURS: dict[str, tuple[tuple[int, int, int], tuple[str, ...]]] = {
    "red": ((214, 40, 40), ("scarlet",)),
    "orange": ((245, 130, 32), ("tangerine",)),
    "yellow": ((240, 205, 30), ("golden",)),
    "green": ((46, 140, 60), ("emerald",)),
    "blue": ((40, 80, 200), ("azure",)),
    "purple": ((130, 50, 160), ("violet",)),
    "pink": ((240, 110, 170), ("rosy",)),
    "brown": ((120, 75, 40), ("chestnut",)),
    "black": ((25, 25, 25), ("dark",)),
    "cyan": ((40, 190, 200), ("turquoise",)),
}
SHAPES: dict[str, tuple[str, ...]] = {
    "circle": ("disc",),
    "square": ("box",),
    "triangle": ("wedge",),
    "star": ("pentagram",),
    "cross": ("plus",),
    "ring": ("hoop",),
    "diamond": ("rhombus",),
    "crescent": ("moon",),
}
SIZES: dict[str, tuple[float, tuple[str, ...]]] = {
    "small": (0.085, ("little", "tiny")),
    "medium": (0.125, ()),
    "large": (0.165, ("big", "huge")),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "grey": (185, 185, 185),
    "beige": (232, 214, 178),
    "lavender": (212, 200, 240),
    "mint": (196, 235, 208),
    "navy": (30, 36, 80),
}
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "centre", "right")


@dataclass(frozen=True)
class Shape:
    """One coloured shape; `row` and `column` are cells of a 3 x 3 grid."""

    shape: str
    colour: str
    size: str
    row: int
    column: int


@dataclass(frozen=True)
class Scene:
    """A background and two to four shapes, no two of which share a cell, or both shape and colour."""

    background: str
    shapes: tuple[Shape, ...]


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw one scene; the same generator state gives the same scene."""
    count = int(rng.integers(2, 5))
    background = str(rng.choice(list(BACKGROUNDS)))
    # Black on navy can't be told apart, by a person either.
    colours = [name for name in COLOURS if not (background == "navy" and name == "black")]
    kinds = rng.permutation(len(colours) * len(SHAPES))[:count]
    cells = rng.permutation(9)[:count]
    names = list(SHAPES)
    shapes = tuple(
        Shape(
            shape=names[int(kind) % len(names)],
            colour=colours[int(kind) // len(names)],
            size=str(rng.choice(list(SIZES))),
            row=int(cell) // 3,
            column=int(cell) % 3,
        )
        for kind, cell in zip(kinds, cells, strict=True)
    )
    return Scene(background, shapes)
