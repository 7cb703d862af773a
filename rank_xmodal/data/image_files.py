"""Where the image files of an embedding set are, even after they were moved together with it."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePath
from typing import Any

from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError

ROOT, RELATIVE = "image_root", "image_root_relative"  # in meta.json
_may_lead_out = re.compile(r"\.\.|^[/\\]|:|\0")  # spares nearly all paths a closer look


def image_files(data: EmbeddingSet, *, there: bool = True) -> list[str]:
    """Return the absolute path of each image's file, "" where the set names none.

    Where meta.json has an `image_root`, paths are relative to that folder, or, where the photos are there no longer, to
    the folder that is as far from the set as they were. Of other sets, imported or old ones, paths are taken as they
    are; those that aren't absolute begin in the set's folder.

    Parameters
    ----------
    data : EmbeddingSet
    there : bool
        Refuse a set whose folder of images is gone. If false, the paths are then where it was.

    Raises
    ------
    UserError
        If the folder is gone, or a path leads out of it.
    """
    paths, meta, root = data.images["path"].tolist(), data.whole.meta, data.whole.root
    if meta.get(ROOT) is None:
        if root is None:
            return paths
        base = os.path.abspath(root)
        return [os.path.join(base, path) if path else "" for path in paths]
    where = root or data.name
    _check_inside(paths, f"{where}: images.parquet")
    places = _places(meta, root, str(where))
    found = _place(places, next(filter(None, paths), ""))
    if found is None and there:
        nor = "".join(f" (nor {place})" for place in places[1:])
        raise UserError(
            f"{where}: its images are not in {places[0]}{nor}. Bring them back, or say where they are now: the same "
            "`rank-xmodal embed` with another --root changes that, and encodes nothing again."
        )
    base = found or places[0]
    return [os.path.join(base, path) if path else "" for path in paths]


def _places(meta: dict[str, Any], root: Path | None, where: str) -> list[str]:
    """Return the folders in which the images may be, that of meta.json first."""
    told = [meta[ROOT], meta.get(RELATIVE)]
    for key, value in zip((ROOT, RELATIVE), told, strict=True):
        if value is not None and (not isinstance(value, str) or not value or "\0" in value):
            raise UserError(f"{where}: meta.json has the {key} {value!r:.80}; it must name a folder. Embed again.")
    if not os.path.isabs(told[0]):
        raise UserError(f"{where}: meta.json has the {ROOT} {told[0]!r:.80}; it must be absolute. Embed again.")
    # The set may be opened by a link, and it is the set's own folder that the photos are so far from.
    beside = [os.path.normpath(os.path.join(os.path.realpath(root), told[1]))] if root and told[1] else []
    return list(dict.fromkeys([os.path.normpath(told[0]), *beside]))


def _place(places: list[str], first: str) -> str | None:
    """Return the place that has the first image; the first that is there at all, if none has it."""
    having = (place for place in places if first and os.path.isfile(os.path.join(place, first)))
    return next(having, None) or next(filter(os.path.isdir, places), None)


def _check_inside(paths: list[str], where: str) -> None:
    for row, path in enumerate(paths):
        if not _may_lead_out.search(path):
            continue
        pure = PurePath(path)
        if pure.anchor or ".." in pure.parts or "\0" in path:
            raise UserError(
                f"{where}: row {row} has the path {path!r:.200}, which leads out of the folder of the images. Whoever "
                "made this set may be after other files of yours: embed the images yourself."
            )
