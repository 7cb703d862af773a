"""How an embedding set names its image files: relative to their folder, so that both can be moved."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data_prep.datasets.corpus import Corpus, leaves
from data_prep.images import files_digest
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.image_files import RELATIVE, ROOT
from rank_xmodal.files import write_json


def stored_paths(corpus: Corpus, out: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return a corpus's table of images as its set keeps it, and what meta.json says of the files.

    Paths are relative to the image folder, with "/", where all files lie in it; else they are absolute.
    """
    names = [_name(path, corpus.image_root) for path in corpus.images["path"]]
    inside = [name for name in names if name is not None]
    if len(inside) < len(names):
        files = [str(path.resolve()) for path in corpus.paths()]
        return _with_digests(corpus.images.assign(path=files), files, {})
    files = [str(path) for path in corpus.paths()]
    return _with_digests(corpus.images.assign(path=inside), files, _places(corpus, out))


def moved(data: EmbeddingSet, corpus: Corpus, say: Callable[[str], None]) -> EmbeddingSet:
    """Return a set of this corpus that says where its images are now."""
    assert data.root is not None
    here = _places(corpus, data.root)
    told = {key: data.meta.get(key) for key in here}
    if told[ROOT] is None or told == here:  # an old set has absolute paths
        return data
    write_json(data.root / "meta.json", {**data.meta, **here})
    say(f"{data.root}: its images are taken from {here[ROOT]} from now on")
    return EmbeddingSet.open(data.root)


def _name(path: str, root: Path) -> str | None:
    """Return a path relative to the image folder; None if it lies elsewhere."""
    if os.path.isabs(path):
        try:
            path = str(Path(path).relative_to(root.absolute()))
        except ValueError:
            return None
    return None if leaves(path) else Path(path).as_posix()


def _places(corpus: Corpus, out: Path) -> dict[str, str]:
    root = os.path.realpath(corpus.image_root)
    return {ROOT: root, RELATIVE: Path(os.path.relpath(root, os.path.realpath(out))).as_posix()}


def _with_digests(
    table: pd.DataFrame, files: Sequence[str], places: dict[str, str]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    where = pd.Series(files, index=table.index)
    digests = {split: files_digest(rows["path"], where[rows.index]) for split, rows in table.groupby("split")}
    return table, {**places, "image_files": digests}
