"""A finished run, judged on a split of any embedding set of its encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from experiments.results.result import Result
from rank_xmodal.data.embedding_set import EmbeddingSet, check_direction
from rank_xmodal.retrieval.gallery import RankedGallery
from rank_xmodal.scorers.stack import first_gallery
from rank_xmodal.use.reranker import FirstStage, Reranker


def opened(
    run: Path, data: EmbeddingSet, split: str, *, device: str = "auto", say: Callable[[str], None] = print
) -> Reranker:
    """Load a run that is to be judged on a split.

    Raises
    ------
    UserError
        If it is not whole or of another encoder than the set.
    """
    reranker = Reranker.from_pretrained(run, device)
    reranker.check_made_for(data, str(run))
    if split in reranker.facts.get("trained_on", ["train"]):
        say(f"{split}: the ranker was trained on these queries; expect figures that mean little. Use test.")
    return reranker


def ranked(
    reranker: Reranker, data: EmbeddingSet, split: str, *, depth: int | None = None, first_stage: FirstStage = "clip"
) -> RankedGallery:
    """Rank a split's gallery in the ranker's direction, by CLIP or in the ranker's own space; see `first_gallery`.

    Raises
    ------
    UserError
        As `first_gallery`.
    """
    direction = check_direction(reranker.facts["direction"])
    return first_gallery(reranker.stack, data, direction, split, depth, own=first_stage == "own")


def evaluate_run(
    reranker: Reranker, data: EmbeddingSet, split: str, *, depth: int | None = None, first_stage: FirstStage = "clip"
) -> Result:
    """Judge a ranker and what it is compared with on the same lists of a split.

    Raises
    ------
    UserError
        As `ranked`.
    """
    gallery = ranked(reranker, data, split, depth=depth, first_stage=first_stage)
    return Result.of(reranker.stack, data, gallery, reranker.device, reranker.calibration)
