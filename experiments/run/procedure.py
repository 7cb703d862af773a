"""How a scorer is fitted: the one procedure of `train` and of every study.

Validation chooses epochs and settings. Small sets are then fitted again on train and validation together: once the
choice is made, its pairs are worth more as training pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from experiments.run.lists import Miner, mined, pool_size
from rank_xmodal.data.candidate_lists import CandidateLists
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.devices import pick_device
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation import calibration as calibrating
from rank_xmodal.evaluation.calibration import Calibration
from rank_xmodal.lists.scoring import score_lists
from rank_xmodal.retrieval.gallery import RankedGallery, has_split, rank_gallery
from rank_xmodal.scorers import Scorer, ScorerSettings, Stack, class_of, names
from rank_xmodal.scorers.list_trained import SMALL
from rank_xmodal.scorers.projections.base import Projection
from rank_xmodal.scorers.settings import ListSettings
from rank_xmodal.scorers.stack import TrainingPart, check_aligned, fit_stack
from rank_xmodal.training.crossfit import inner_count, inner_folds
from rank_xmodal.training.watch import Watch


@dataclass(frozen=True)
class Fitted:
    """What the procedure gives back.

    Attributes
    ----------
    stack : Stack
    trained_on : tuple of str
        The splits whose pairs it has seen.
    history : list of dict
        Of the fit that was validated; see `Watch`.
    best_epoch : int or None
        None for what isn't fitted in epochs.
    calibration : Calibration or None
    """

    stack: Stack
    trained_on: tuple[str, ...]
    history: list[dict[str, float]]
    best_epoch: int | None
    calibration: Calibration | None


@dataclass(frozen=True)
class Plan:
    """A fit before it is made: what will be learnt from, which decides how long it takes.

    Attributes
    ----------
    parts : list of TrainingPart
        Training lists; none for a scorer that needs none.
    validation : RankedGallery or None
    """

    parts: list[TrainingPart]
    validation: RankedGallery | None

    @property
    def lists(self) -> int:
        """Number of training lists."""
        return sum(len(part.lists) for part in self.parts)


def scorer_of(settings: ScorerSettings) -> Scorer:
    """Return the scorer that settings describe, not fitted."""
    return class_of(settings.scorer)(settings)


def base_of(settings: ScorerSettings) -> Scorer:
    """Return the scorer that it stands on, not fitted, with its own default settings."""
    return class_of(settings.on)(device=settings.device)


def _makes_a_space(name: str) -> bool:
    scorer = class_of(name)
    return scorer.takes_unaligned and issubclass(scorer, Projection)


def check_served(settings: ScorerSettings, data: EmbeddingSet) -> tuple[Scorer, Scorer]:
    """Return the scorer and its base, not fitted; a UserError says what the set lacks for them."""
    scorer, base = scorer_of(settings), base_of(settings)
    scorer.needs.check(scorer.name, data)
    check_aligned(scorer, base, data, [name for name in names() if _makes_a_space(name)])
    return scorer, base


def plan(
    data: EmbeddingSet,
    direction: Direction,
    settings: ScorerSettings,
    *,
    lists: CandidateLists | None = None,
    mine: Miner = mined,
) -> Plan:
    """Gather what a fit learns from.

    Parameters
    ----------
    data, direction, settings
    lists : CandidateLists or None
        Training lists of the user's own.
    mine : Miner
        Where lists come from otherwise.

    Raises
    ------
    UserError
        If the set lacks what the scorer needs, lists are given that can't be used, there is nothing to calibrate on, or
        as mining.
    """
    scorer, base = check_served(settings, data)
    # Without a common space there are no lists to validate by: what chooses a setting looks at the split itself.
    validated = data.aligned and has_split(data, direction, "val")
    validation = rank_gallery(data, direction, "val") if validated else None
    if settings.calibrate and not data.aligned:
        raise UserError("calibrate=true fits probabilities on CLIP's lists, and this set has no common space for any.")
    if settings.calibrate and validation is None:
        raise UserError(
            "calibrate=true needs a validation split (val), this set has none. Give it one, or leave it out."
        )
    if settings.calibrate and validation is not None:
        calibrating.check(torch.from_numpy(validation.lists.labels))
    if lists is not None and lists.direction != direction:
        raise UserError(f"--lists: its lists are {lists.direction}, --direction is {direction}.")
    if lists is not None and (not scorer.needs.lists or base.fitted_on_pairs or scorer.out_of_fold is not None):
        why = "is not trained on any"
        if scorer.needs.lists:
            fitted = f"on={base.name}" if base.fitted_on_pairs else f"scorer={scorer.name}"
            why = f"can't take them: {fitted} scores lists out of fold, and mines them"
        other = ", or rank by --features embeddings" if getattr(settings, "features", "") == "full" else ""
        raise UserError(f"--lists: scorer={scorer.name} {why}. Leave the option out{other}.")
    return Plan(_parts(data, direction, settings, scorer, base, lists, mine), validation)


def _parts(
    data: EmbeddingSet,
    direction: Direction,
    settings: ScorerSettings,
    scorer: Scorer,
    base: Scorer,
    lists: CandidateLists | None,
    mine: Miner,
) -> list[TrainingPart]:
    if not scorer.needs.lists:
        return []
    assert isinstance(settings, ListSettings)
    if not base.fitted_on_pairs and scorer.out_of_fold is None:
        return [TrainingPart(lists if lists is not None else mine(data, direction, settings), data)]
    folds = list(inner_folds(data, inner_count(data, scorer.out_of_fold), settings.seed))
    if not folds:
        other = "--features embeddings or --scorer csls" if hasattr(settings, "features") else "--scorer csls"
        raise UserError(
            f"{data.root or data.name}: its training items make fewer than four groups that don't belong together "
            f"(relevance and near-duplicates), too few to cross-fit. Give train more, or use {other}."
        )
    return [TrainingPart(mine(held, direction, settings), rest) for rest, held in folds]


def fit(
    data: EmbeddingSet,
    direction: Direction,
    settings: ScorerSettings,
    prepared: Plan,
    *,
    refit: bool = True,
    mine: Miner = mined,
    say: Callable[[str], None] = lambda line: None,
    watch: Watch | None = None,
    keep: Path | None = None,
) -> Fitted:
    """Fit a scorer; see the module.

    Parameters
    ----------
    data, direction, settings
    prepared : Plan
        As `plan` made it.
    refit : bool
        Whether fitting again on train and validation is allowed: not where validation is to be judged on afterwards,
        or the lists are the user's own.
    mine : Miner
        Where the lists of both splits come from.
    say : callable
    watch : Watch or None
    keep : Path or None
        A folder for the states of both fits: a procedure that was interrupted goes on from there.

    Raises
    ------
    UserError
        As mining and the fits.
    """
    device = pick_device(settings.device)
    watch = watch or Watch()
    scorer, validation = scorer_of(settings), prepared.validation
    if scorer.out_of_fold is not None:
        say(f"  scores fitted on {len(prepared.parts)} inner folds, then on all of train")
    stack = fit_stack(
        scorer, data, direction, base=base_of(settings), parts=prepared.parts, validation=validation,
        seed=settings.seed, device=device, watch=replace(watch, checkpoint=keep and keep / "fit.safetensors"),
    )  # fmt: skip
    calibration = None
    if settings.calibrate and validation is not None:
        scores = score_lists(scorer, stack.tensors(data, validation.lists, device))
        calibration = calibrating.fit(scores, torch.from_numpy(validation.lists.labels))
    trained_on: tuple[str, ...] = ("train",)
    if refit and has_split(data, direction, "val") and _again(settings, scorer, prepared, data, direction):
        say("  again on train and val together" + (f", up to epoch {scorer.best_epoch}" if scorer.best_epoch else ""))
        whole = _train_and_val(data)
        second = scorer.refitting()
        if isinstance(settings, ListSettings):  # without a test split train and val would make another gallery
            settings = settings.model_copy(update={"pool": pool_size(data, direction, settings)})
        stack = fit_stack(
            second, whole, direction, base=stack.base.refitting(),
            parts=_parts(whole, direction, settings, second, stack.base, None, mine),
            seed=settings.seed, device=device, watch=Watch(
                on_step=watch.on_step, last_epoch=scorer.best_epoch, checkpoint=keep and keep / "refit.safetensors"
            ),
        )  # fmt: skip
        trained_on = ("train", "val")
    return Fitted(stack, trained_on, scorer.history, scorer.best_epoch, calibration)


def _again(settings: ScorerSettings, scorer: Scorer, prepared: Plan, data: EmbeddingSet, direction: Direction) -> bool:
    """Say whether to fit again on train and validation together.

    Not where validation found nothing better than the start, nor where it is needed for calibration, whose queries the
    scorer must not have been trained on.
    """
    fitted = scorer.fitted_on_pairs or base_of(settings).fitted_on_pairs
    if settings.refit is False or settings.calibrate or scorer.best_epoch == 0 or not fitted:
        return False
    size = prepared.lists if prepared.parts else len(data.query_rows(direction, "train"))
    return settings.refit is True or size < SMALL


def _train_and_val(data: EmbeddingSet) -> EmbeddingSet:
    images, texts = (table.assign(split=table["split"].replace("val", "train")) for table in (data.images, data.texts))
    meta = {**data.meta, "fingerprint": f"{data.fingerprint} train and val"}
    return replace(data, images=images, texts=texts, meta=meta, root=None, cut_of=data.whole)
