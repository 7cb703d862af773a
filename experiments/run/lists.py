"""The candidate lists of a training: those that fit its settings are read, others are mined and kept."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from data_prep.mining.miner import mine
from rank_xmodal.data.candidate_lists import CandidateLists
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.scorers.settings import ListSettings

POOL = 200

Miner = Callable[[EmbeddingSet, Direction, ListSettings], CandidateLists]
"""Returns the training lists that settings ask for."""


def default_path(data: EmbeddingSet, direction: Direction, split: str) -> Path:
    """Return where `rank-xmodal mine` writes unless told otherwise: lists/t2i-train.parquet in the embedding set."""
    if data.root is None:
        raise UserError("the embedding set has no folder: write it first.")
    return data.root / "lists" / f"{direction}-{split}.parquet"


def gallery_size(data: EmbeddingSet, direction: Direction) -> int:
    """Return the size of the gallery that the ranker will meet: test's, else validation's, else train's own."""
    table = data.images if direction == "t2i" else data.texts
    sizes = [int((table["split"] == split).sum()) for split in ("test", "val", "train")]
    return next(size for size in sizes if size)


def pool_size(data: EmbeddingSet, direction: Direction, settings: ListSettings) -> int | Literal["all"]:
    """Return the miner's pool: the settings' own, or under "auto" 200, for natural lists the gallery to be met."""
    if settings.pool != "auto":
        return settings.pool
    if settings.lists != "natural":
        return POOL
    return min(gallery_size(data, direction), len(data.candidate_rows(direction, "train")))


def request(data: EmbeddingSet, direction: Direction, settings: ListSettings) -> dict[str, Any]:
    """Return what the miner is asked for: two trainings with equal requests on a set have equal lists."""
    pool = pool_size(data, direction, settings)
    return {"protocol": settings.lists, "pool": pool, "negatives": settings.negatives, "seed": settings.seed}


def mined(data: EmbeddingSet, direction: Direction, settings: ListSettings) -> CandidateLists:
    """Mine the training lists that the settings ask for.

    Raises
    ------
    UserError
        As `mine`.
    """
    return mine(data, direction, "train", **request(data, direction, settings))


def kept_or_mined(out: Path, say: Callable[[str], None] = print) -> Miner:
    """Return a miner that reads lists mined before in the same way, and keeps what it mines in the embedding set.

    In a set that may not be written to it keeps them in the run's folder `out`.
    """

    def lists_of(data: EmbeddingSet, direction: Direction, settings: ListSettings) -> CandidateLists:
        if data.root is None:  # part of a set, made up for a fold or a second fit
            return mined(data, direction, settings)
        wanted = request(data, direction, settings)
        common = default_path(data, direction, "train")
        own = common.with_name(
            f"{direction}-train-{wanted['protocol']}-{wanted['pool']}-{wanted['negatives']}-s{wanted['seed']}.parquet"
        )
        ours = out / "lists" / own.name
        for path in (common, own, ours):
            if path.is_file():
                try:
                    lists = CandidateLists.read(path, data)
                except UserError as error:
                    if path == common:
                        continue  # the user's own file; not what is asked for, so not to be complained about here
                    say(f"{error} Mining it again now.")
                    continue
                if all(lists.info.get(key) == value for key, value in wanted.items()):
                    return lists
        lists = mined(data, direction, settings)
        try:
            lists.write(own)
        except UserError as error:
            if getattr(error.__cause__, "errno", None) not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            lists.write(ours)
        return lists

    return lists_of
