"""A finished run, judged on a split of any embedding set of its encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from experiments.results.result import Result
from experiments.results.sharing import ranked_and_scored
from rank_xmodal.data.embedding_set import EmbeddingSet, check_direction
from rank_xmodal.parallel import Executor, Serial
from rank_xmodal.retrieval.gallery import RankedGallery
from rank_xmodal.scorers.stack import depth_of, first_gallery
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
    reranker: Reranker,
    data: EmbeddingSet,
    split: str,
    *,
    depth: int | None = None,
    first_stage: FirstStage = "clip",
    executor: Executor | None = None,
    run: Path | None = None,
) -> Result:
    """Judge a ranker and what it is compared with on the same lists of a split.

    With an `executor` its workers rank and score; they open the set's folder and that of the `run`.

    Raises
    ------
    UserError
        As `ranked`, or if a worker can't open them.
    """
    scores = None
    if executor is None or executor.name == Serial.name or run is None:
        gallery = ranked(reranker, data, split, depth=depth, first_stage=first_stage)
    else:
        deep = depth or depth_of(data, check_direction(reranker.facts["direction"]), split)
        gallery, scores = ranked_and_scored(run, reranker, data, split, deep, first_stage == "own", executor)
    return Result.of(reranker.stack, data, gallery, reranker.device, reranker.calibration, scores)
