"""The queries that a run moved most, for better or worse, with pictures small enough for a page."""

from __future__ import annotations

import base64
import functools
import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.images import files_digest, read_image
from experiments.results.result import Result, reference
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.data.image_files import ROOT, image_files
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.judging import MEAN_RANK, RANKER

CANDIDATES = 5
"""Candidates shown of a list."""
EXAMPLES = 12
"""Queries shown of the gains, and of the losses."""
Picture = tuple[str, int, int]  # a data URI, width and height


class Item(NamedTuple):
    """A caption; or an image with one of its captions."""

    id: str
    text: str
    picture: Picture | None = None


class Candidate(NamedTuple):
    """An item in a list, and by how many places it rose from the reference's; None in that list itself."""

    item: Item
    relevant: bool
    moved: int | None


class Ordered(NamedTuple):
    """The first candidates in a row's order, and the rank of the first relevant of all."""

    row: str
    rank: int
    candidates: list[Candidate]


Example = tuple[Item, list[Ordered]]  # a query, and its list in the reference's order and in the run's


def most_moved(result: Result) -> tuple[list[int], list[int]]:
    """Return the places of the queries whose first relevant candidate's reciprocal rank rose most, and fell most."""
    before, after = (result.values[row][MEAN_RANK].numpy() for row in (reference(result.report), RANKER))
    change = 1 / after - 1 / before
    rising, falling = (np.argsort(sign * change, kind="stable")[:EXAMPLES] for sign in (-1, 1))
    return [int(p) for p in rising if change[p] > 0], [int(p) for p in falling if change[p] < 0]


def example(data: EmbeddingSet, result: Result, place: int, picture: Callable[[str], Picture | None]) -> Example:
    """Return the query at this place of a result's lists, with the pictures that `picture` makes of images' paths."""
    lists = result.gallery.lists
    rows, labels, by_image = lists.candidates[place], lists.labels[place], lists.direction == "i2t"
    found: list[Ordered] = []
    before: dict[int, int] = {}
    for row in (reference(result.report), RANKER):
        # As in the metrics, of equals the relevant come last; padding has no place.
        order = [int(p) for p in np.lexsort((labels, -result.scores[row][place].double().numpy())) if labels[p] >= 0]
        shown = [
            Candidate(_item(data, rows[p], not by_image, picture), labels[p] > 0, before[p] - k if before else None)
            for k, p in enumerate(order[:CANDIDATES])
        ]
        before = {p: k for k, p in enumerate(order)}
        found.append(Ordered(row, int(result.values[row][MEAN_RANK][place]), shown))
    return _item(data, lists.query[place], by_image, picture), found


def _item(data: EmbeddingSet, row: int, by_image: bool, picture: Callable[[str], Picture | None]) -> Item:
    if not by_image:
        return Item(_short(data.texts["text_id"].iloc[row], 80), _short(data.texts["text"].iloc[row], 280))
    image, captions = data.images.iloc[row], data.relevance_matrix("i2t")[row].indices
    text = data.texts["text"].iloc[int(captions.min())] if len(captions) else ""
    return Item(_short(image["image_id"], 80), _short(text, 120), picture(image["path"]))


def _short(text: object, longest: int) -> str:
    text = " ".join(str(text).split())
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def own_files(data: EmbeddingSet, split: str) -> Callable[[str], Path | None]:
    """Return a function from an image's path in a set to the file to show, or None for one that it must not show.

    A set that somebody else made may name any file of this machine, and the page is there to be passed on. Shown are
    the files of a split that `embed` read here: whoever tells their digest, has them. Of other sets, and where a file
    changed since, only what lies in the set's own folder is shown.
    """
    chosen = (data.images["split"] == split).to_numpy()
    paths = data.images["path"][chosen].tolist()
    digests = data.meta.get("image_files")
    with suppress(UserError):  # a path that leads out of the folder of the images
        files = paths  # older sets name them in full
        if data.meta.get(ROOT) is not None:
            files = [file for file, one in zip(image_files(data, there=False), chosen, strict=True) if one]
        if isinstance(digests, dict) and digests.get(split) == files_digest(paths, files):
            return dict(zip(paths, map(Path, files), strict=True)).get
    if data.root is None:
        return lambda path: None
    folder = data.root.resolve()

    def inside(path: str) -> Path | None:
        try:
            file = (folder / path).resolve()
        except (OSError, ValueError, RuntimeError):  # too long, a NUL, links in a circle
            return None
        return file if file.is_relative_to(folder) else None

    return inside


def thumbnails(side: int, quality: int, file_of: Callable[[str], Path | None]) -> Callable[[str], Picture | None]:
    """Return a function from an image's path to its picture, at most `side` wide and high, or None if there is none."""

    @functools.cache
    def picture(path: str) -> Picture | None:
        file = file_of(path)
        if file is None or not os.path.isfile(file):  # a pipe would be waited for
            return None
        try:
            image = read_image(file)
        except UserError:  # a page with a gap is worth more than none
            return None
        image.thumbnail((side, side))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(), image.width, image.height

    return picture
