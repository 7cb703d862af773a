"""A finished run, judged on a split of any embedding set of its encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from experiments.results.result import Result
from rank_xmodal.data.embedding_set import EmbeddingSet, check_direction
from rank_xmodal.errors import UserError
from rank_xmodal.retrieval.gallery import CLIP, DEPTH, RankedGallery, rank_gallery
from rank_xmodal.scorers.stack import unaligned_depth
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
    """Rank a split's gallery in the ranker's direction, by CLIP or in the ranker's own space.

    The latter is taken, too, where the sides of the set are not aligned. Lists have `depth` places: if not given 51, or
    as many as `first_gallery` has where the sides are not aligned.

    Raises
    ------
    UserError
        If the split is empty, or the ranker has no space of its own.
    """
    direction = check_direction(reranker.facts["direction"])
    depth = depth or (DEPTH if data.aligned else unaligned_depth(data, direction, split))
    stack = reranker.stack
    if first_stage == "clip" and data.aligned:
        return rank_gallery(data, direction, split, depth, first_stage=CLIP)
    if stack.own_space is None:
        raise UserError(
            f"--first-stage own: {stack.scorer.label} reorders what another first stage found; it has no space to "
            "search in. Use --first-stage clip."
        )
    return rank_gallery(data, direction, split, depth, space=stack.own_space, first_stage=stack.own_first_stage)


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
