"""Small sets: once validation has chosen the epoch, its pairs are worth more as training pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from data_prep.mining.miner import mine
from experiments.lists import pool_size
from rank_xmodal.embedding_set import Direction, EmbeddingSet
from rank_xmodal.settings import Settings
from rank_xmodal.training import SMALL, Trained, train


def wanted(settings: Settings, first: Trained, lists: int) -> bool:
    """Say whether a training is to be repeated on train and validation together.

    Not where validation found nothing better than the untrained ranker, nor where it is needed for calibration, whose
    queries the ranker must not have been trained on.
    """
    if settings.refit is False or settings.calibrate or first.best_epoch == 0:
        return False
    return settings.refit is True or lists < SMALL


def refit(
    data: EmbeddingSet,
    direction: Direction,
    settings: Settings,
    first: Trained,
    on_step: Callable[[int, int, int], None] = lambda epoch, step, steps: None,
) -> Trained:
    """Train again on train and val, with the same settings and seed, up to the epoch that validation chose.

    Returns
    -------
    Trained
        The new weights and their query bank; history and best epoch are those of `first`, the training that was
        validated.
    """
    images, texts = (table.assign(split=table["split"].replace("val", "train")) for table in (data.images, data.texts))
    meta = {**data.meta, "fingerprint": f"{data.fingerprint} train and val"}
    whole = replace(data, images=images, texts=texts, meta=meta)
    lists = mine(
        whole,
        direction,
        negatives=settings.negatives,
        pool=pool_size(whole, direction, settings),
        protocol=settings.lists,
        seed=settings.seed,
    )
    again = train(whole, lists, settings, last_epoch=first.best_epoch, on_step=on_step)
    return replace(again, history=first.history, best_epoch=first.best_epoch)
