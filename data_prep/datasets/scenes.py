"""`scenes`: the demo corpus, drawn from a seed in a few seconds; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_prep.datasets.corpus import Corpus, image_table, relevance_table, text_table
from rank_xmodal.errors import UserError
from rank_xmodal.files import read_json, replacing, sha256, write_json

COUNTS = {"train": 2_000, "val": 500, "test": 1_000}
_SPLITS = ("train", "val", "test")
_MARKER = "scenes.json"
# The first word of every seed of the corpus. The pre-training's seeds (pretrain.py) start with other words, so that
# whatever `seed` is, no generator of one is ever a generator of the other.
_CORPUS = 5_202_611


def _generator(seed: int, split: str, row: int, use: int) -> np.random.Generator:
    return np.random.default_rng((_CORPUS, seed, _SPLITS.index(split), row, use))


def load_scenes(
    root: Path,
    seed: int = 0,
    counts: dict[str, int] | None = None,
    say: Callable[[str], None] = print,
) -> Corpus:
    """Render the images into root/images, unless they are there already, and caption each five times.

    The classes of an item are what is to be seen in it: "blue ring", "red star". A caption may leave some of them out.

    An image depends on seed, split and row alone: other counts leave the first ones as they are.

    Parameters
    ----------
    root : Path
        A folder to be made, or one that this function made before.
    seed : int, at least 0
    counts : dict, optional
        Images per split; {"train": 2000, "val": 500, "test": 1000} if not given.

    Raises
    ------
    UserError
        If seed or counts make no sense, root/images holds something else, or the disk is full.
    """
    from data_prep.scenes.captions import captions
    from data_prep.scenes.world import draw_scene

    wanted = _counts(counts)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UserError(f"seed={seed!r}: must be a whole number, 0 or more.")
    items = [(split, row) for split in _SPLITS for row in range(wanted[split])]
    folder = Path(root) / "images"
    _render_all(folder, seed, wanted, items, say)

    texts: list[str] = []
    labels: list[str] = []
    for split, row in items:
        scene = draw_scene(_generator(seed, split, row, 1))
        texts += captions(scene, _generator(seed, split, row, 3))
        labels.append("|".join(sorted(f"{item.colour} {item.shape}" for item in scene.shapes)))
    ids = [f"{split}-{row:05d}" for split, row in items]
    splits = [split for split, _ in items]
    return Corpus(
        name="scenes",
        images=image_table(ids, [f"{name}.png" for name in ids], splits, labels),
        texts=text_table(
            [f"{name}-{k}" for name in ids for k in range(5)],
            texts,
            [split for split in splits for _ in range(5)],
            [own for own in labels for _ in range(5)],
        ),
        relevance=relevance_table([i for i in range(len(ids)) for _ in range(5)]),
        image_root=folder,
    )


def _counts(counts: dict[str, int] | None) -> dict[str, int]:
    wanted = {**COUNTS, **(counts or {})}
    for split, count in wanted.items():
        if split not in _SPLITS:
            raise UserError(f"counts: {split!r} is no split; use train, val and test.")
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= 99_999:
            raise UserError(f"counts: {split}={count!r} must be a whole number from 0 to 99999.")
    if not any(wanted.values()):
        raise UserError("counts: every split has 0 images. Ask for some.")
    return wanted


def _render_all(
    folder: Path, seed: int, counts: dict[str, int], items: list[tuple[str, int]], say: Callable[[str], None]
) -> None:
    from data_prep.scenes import render, world

    # What was drawn by other code is drawn again.
    code = sha256(*(Path(str(module.__file__)).read_bytes() for module in (world, render)))
    facts = {"dataset": "scenes", "seed": seed, "counts": counts, "code": code}
    if folder.exists():
        marker = folder / _MARKER
        names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else {""}
        if marker.is_file():
            if read_json(marker) == facts and {f"{split}-{row:05d}.png" for split, row in items} <= names:
                say(f"scenes: {len(items):,} images already in {folder}")
                return
        elif names:
            raise UserError(
                f"{folder}: it is there and was not made by scenes. Choose an empty folder with --root, or move it."
            )
    with replacing(folder) as part:  # a folder at a time: an interrupted run leaves nothing behind
        part.mkdir(parents=True)
        for split, row in items:
            image = render.render(world.draw_scene(_generator(seed, split, row, 1)), _generator(seed, split, row, 2))
            image.save(part / f"{split}-{row:05d}.png", compress_level=1)
        write_json(part / _MARKER, facts)
    say(f"scenes: drew {len(items):,} images into {folder} (seed {seed})")
