"""Captions as a crawled page has them, tags and file names: what the demo's encoder was pre-trained on.

They share words with `captions.py` and nothing of its style: no sentences, no relations, no counts.
"""

from __future__ import annotations

import numpy as np

from data_prep.scenes.world import COLOURS, COLUMNS, ROWS, SHAPES, SIZES, Scene, Shape


def _pick(word: str, others: tuple[str, ...], rng: np.random.Generator) -> str:
    return word if not others or rng.random() < 0.75 else str(rng.choice(others))


def _tag(item: Shape, rng: np.random.Generator, *, detail: float) -> str:
    colour = _pick(item.colour, COLOURS[item.colour][1], rng)
    shape = _pick(item.shape, SHAPES[item.shape], rng)
    size = "" if item.size == "medium" else _pick(item.size, SIZES[item.size][1], rng)
    words = [colour, shape] if rng.random() < 0.7 else [shape, colour]
    if size and rng.random() < detail:
        words.append(size)
    if rng.random() < detail:
        words.append(f"{ROWS[item.row]} {COLUMNS[item.column]}")
    return " ".join(words)


def web_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Return one string of tags about the scene."""
    order = [scene.shapes[i] for i in rng.permutation(len(scene.shapes))]
    if rng.random() < 0.35:
        order = order[: int(rng.integers(1, len(order) + 1))]
    detail = float(rng.choice([0.0, 0.5, 1.0], p=[0.35, 0.35, 0.3]))
    tags = [_tag(item, rng, detail=detail) for item in order]
    if rng.random() < 0.6:
        tags.insert(int(rng.integers(0, len(tags) + 1)), f"{scene.background} background")
    joiner = str(rng.choice([", ", " | ", " - ", "; "]))
    ending = str(rng.choice(["", "", " clipart", " stock image", ".jpg", " free vector"]))
    return joiner.join(tags) + ending
