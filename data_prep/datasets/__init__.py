"""Datasets by name: every one becomes a `Corpus`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.datasets.corpus import Corpus
from data_prep.datasets.folder import load_folder
from data_prep.datasets.karpathy import load_karpathy
from data_prep.datasets.mirflickr import load_mirflickr
from data_prep.datasets.nus_wide import load_nus_wide
from data_prep.datasets.parquet import load_parquet
from data_prep.datasets.pascal_sentences import load_pascal_sentences
from data_prep.datasets.scenes import load_scenes
from data_prep.datasets.wikipedia import load_wikipedia
from rank_xmodal.errors import UserError

DATASETS: dict[str, Callable[..., Corpus]] = {
    "scenes": load_scenes,
    "flickr30k": partial(load_karpathy, "flickr30k"),
    "coco": partial(load_karpathy, "coco"),
    "folder": load_folder,
    "parquet": load_parquet,
    "pascal_sentences": load_pascal_sentences,
    "mirflickr": load_mirflickr,
    "nus_wide": load_nus_wide,
    "wikipedia": load_wikipedia,
}


def load(name: str, root: Path | str, say: Callable[[str], None] = print, **options: Any) -> Corpus:
    """Load a dataset from a folder; options left at None keep their defaults.

    Example
    -------
    >>> corpus = load("scenes", "data/scenes", seed=0)    # doctest: +SKIP
    scenes: drew 3,500 images into data/scenes/images (seed 0)

    Raises
    ------
    UserError
        If there is no such dataset, it has no such option, or its files are not as they should be.
    """
    if name not in DATASETS:
        raise UserError(f"dataset={name!r}: must be one of {', '.join(DATASETS)}.")
    loader = DATASETS[name]
    given = {key: value for key, value in options.items() if value is not None}
    known = [key for key in inspect.signature(loader).parameters if key not in ("root", "say")]
    for key in given:
        if key not in known:
            raise UserError(f"dataset {name} has no option {key!r}; it has {', '.join(known)}.")
    return loader(Path(root), say=say, **given)


__all__ = ["DATASETS", "Corpus", "load"]
