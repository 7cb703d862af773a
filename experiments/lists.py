"""The candidate lists of a training: those that fit its settings are read, others are mined and kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from data_prep.mining.miner import mine
from rank_xmodal.candidate_lists import CandidateLists
from rank_xmodal.embedding_set import Direction, EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.settings import Settings

POOL = 200


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


def pool_size(data: EmbeddingSet, direction: Direction, settings: Settings) -> int | Literal["all"]:
    """Return the miner's pool: the settings' own, or under "auto" 200, for natural lists the gallery to be met."""
    if settings.pool != "auto":
        return settings.pool
    if settings.lists != "natural":
        return POOL
    return min(gallery_size(data, direction), len(data.candidate_rows(direction, "train")))


def training_lists(
    data: EmbeddingSet, direction: Direction, settings: Settings, say: Callable[[str], None] = print
) -> CandidateLists:
    """Return the lists that the settings ask for, mined now unless lists mined in the same way are there.

    Raises
    ------
    UserError
        As `mine`.
    """
    pool = pool_size(data, direction, settings)
    wanted = {"protocol": settings.lists, "pool": pool, "negatives": settings.negatives, "seed": settings.seed}
    common = default_path(data, direction, "train")
    own = common.with_name(f"{direction}-train-{settings.lists}-{pool}-{settings.negatives}-s{settings.seed}.parquet")
    for path in (common, own):
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
    lists = mine(data, direction, "train", **wanted)  # type: ignore[arg-type]
    lists.write(own)
    return lists
