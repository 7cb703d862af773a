"""Draw a scene with Pillow."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from data_prep.scenes.world import BACKGROUNDS, COLOURS, SIZES, Scene

SIDE = 64  # pixels; what the demo's encoder takes
_OVERSAMPLE = 3  # drawn larger and shrunk, so that edges are smooth


def _polygon(
    centre: tuple[float, float], radius: float, angles: list[float], radii: list[float]
) -> list[tuple[float, float]]:
    return [
        (centre[0] + radius * r * math.sin(a), centre[1] - radius * r * math.cos(a))
        for a, r in zip(angles, radii, strict=True)
    ]


def render(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Return the scene as a `SIDE` x `SIDE` RGB image; place, size, tilt and tint vary a little with `rng`."""
    side = SIDE * _OVERSAMPLE
    base = np.clip(np.array(BACKGROUNDS[scene.background]) + rng.normal(0, 4, 3), 0, 255).astype(int)
    background = (int(base[0]), int(base[1]), int(base[2]))
    image = Image.new("RGB", (side, side), background)
    draw = ImageDraw.Draw(image)
    for item in scene.shapes:
        tint = np.clip(np.array(COLOURS[item.colour][0]) + rng.normal(0, 10, 3), 0, 255).astype(int)
        fill = (int(tint[0]), int(tint[1]), int(tint[2]))
        shift = rng.uniform(-0.035, 0.035, 2)
        x = ((item.column + 0.5) / 3 + shift[0]) * side
        y = ((item.row + 0.5) / 3 + shift[1]) * side
        r = SIZES[item.size][0] * side * rng.uniform(0.92, 1.08)
        tilt = rng.uniform(-0.15, 0.15)
        box = (x - r, y - r, x + r, y + r)
        if item.shape == "circle":
            draw.ellipse(box, fill=fill)
        elif item.shape == "ring":
            draw.ellipse(box, outline=fill, width=max(2, round(r * 0.38)))
        elif item.shape == "crescent":
            draw.ellipse(box, fill=fill)
            draw.ellipse((x - r * 0.35, y - r * 0.95, x + r * 1.35, y + r * 0.75), fill=background)
        elif item.shape == "cross":
            points = [(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1)]
            points.append((-1, -1))
            c, s = math.cos(tilt), math.sin(tilt)
            draw.polygon([(x + r / 3 * (c * a - s * b), y + r / 3 * (s * a + c * b)) for a, b in points], fill=fill)
        else:
            corners = {"square": 4, "triangle": 3, "star": 10, "diamond": 4}[item.shape]
            start = math.pi / 4 if item.shape == "square" else 0.0
            angles = [start + tilt + 2 * math.pi * k / corners for k in range(corners)]
            radii = [1.0] * corners
            if item.shape == "star":
                radii = [1.0 if k % 2 == 0 else 0.42 for k in range(corners)]
            elif item.shape == "diamond":
                radii = [1.15, 0.65, 1.15, 0.65]
            draw.polygon(_polygon((x, y), r * 1.1, angles, radii), fill=fill)
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)
