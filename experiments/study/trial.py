"""A trial: one scorer fitted and judged on one part of a set, by the very procedure of `rank-xmodal train`.

Plain data in, a frame out: a trial can run in any process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from data_prep.mining.miner import mine
from experiments.results.result import Result
from experiments.run import procedure
from experiments.run.lists import POOL, mined, request
from experiments.study.cost import cost_of
from rank_xmodal import scorers
from rank_xmodal.data.candidate_lists import CandidateLists
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.data.groups import groups
from rank_xmodal.devices import pick_device
from rank_xmodal.retrieval.gallery import DEPTH, RankedGallery, rank_gallery
from rank_xmodal.scorers import ScorerSettings
from rank_xmodal.scorers.settings import ListSettings
from rank_xmodal.scorers.stack import first_gallery


@dataclass(frozen=True)
class Part:
    """Which part of a set is learnt from and judged: its own splits, or a fold of a permutation (`repeat`)."""

    folder: str
    repeat: int = 0
    fold: int = 0
    folds: int = 0

    @property
    def seed(self) -> int:
        """What is added to a row's own seed."""
        return self.repeat * max(self.folds, 1) + self.fold

    def of(self, data: EmbeddingSet) -> EmbeddingSet:
        """Return the set, or with one fold of its images, and their captions, as test and the rest as train.

        Near-duplicates stay together (`rank_xmodal.data.groups`), in the fold of the first of them. Every image is in
        test once a permutation, but those that the division leaves over, which are always train. Splits that the set
        itself has don't count then; there is no validation split.
        """
        if not self.folds:
            return data
        order = np.random.default_rng(self.repeat).permutation(len(data.images))
        size = len(order) // self.folds
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        group = groups(data).image
        first = np.full(group.max(initial=0) + 1, len(order))
        np.minimum.at(first, group, place)
        images = np.where(first[group] // size == self.fold, "test", "train").astype(object)
        texts = np.full(len(data.texts), "train", dtype=object)
        texts[data.relevance["text"]] = images[data.relevance["image"]]
        which = f"{data.fingerprint} fold {self.fold} of {self.folds}, permutation {self.repeat}"
        cut = replace(data, images=data.images.assign(split=images), texts=data.texts.assign(split=texts))
        meta = {**data.meta, "fingerprint": which}
        return replace(cut, meta=meta, root=None, kept=None, cut_of=data.whole)


@dataclass(frozen=True)
class Trial:
    """What to fit and by what to judge it; `split` val is not trained on once it has chosen the epoch.

    With `cost` it is timed, too: then nothing is taken up that was fitted before.
    """

    part: Part
    direction: Direction
    settings: dict[str, Any]
    split: str = "test"
    protocols: tuple[str, ...] = ("gallery",)
    cost: bool = False


class Desk:
    """A part of a set with what trials have mined of it: what several ask for one after the other is mined once.

    Only the lists of the last request are kept, and those that its refit and inner folds needed.
    """

    def __init__(self, data: EmbeddingSet) -> None:
        self.data = data
        self._request: tuple[str, ...] = ()
        self._lists: dict[tuple[str, ...], CandidateLists] = {}
        self._galleries: dict[tuple[str, ...], RankedGallery] = {}

    def request(self, direction: Direction, settings: ScorerSettings) -> tuple[str, ...]:
        """Return what lists a fit asks for; trials in the order of these mine nothing twice."""
        if not isinstance(settings, ListSettings):
            return (direction,)
        return (direction, *map(str, request(self.data, direction, settings).values()))

    def mine(self, data: EmbeddingSet, direction: Direction, settings: ListSettings) -> CandidateLists:
        """Return training lists of the part, or of what a fit made of it."""
        if (wanted := self.request(direction, settings)) != self._request:
            self._request, self._lists = wanted, {}
        key = (data.fingerprint, *map(str, request(data, direction, settings).values()))
        if key not in self._lists:
            self._lists[key] = mined(data, direction, settings)
        return self._lists[key]

    def gallery(self, direction: Direction, split: str, protocol: str) -> RankedGallery:
        """Return what every row of a protocol reorders: a row differs from another in its ranking alone."""
        key = (direction, split, protocol)
        if key not in self._galleries and protocol == "gallery":
            self._galleries[key] = rank_gallery(self.data, direction, split)
        elif key not in self._galleries:
            lists = mine(self.data, direction, split, negatives=DEPTH - 1, pool=POOL, protocol=protocol, seed=0)
            self._galleries[key] = RankedGallery.of_mined(lists)
        return self._galleries[key]


class Desks:
    """The desk of a part of a set; of one part at a time, so that memory holds the lists of one."""

    def __init__(self, data: EmbeddingSet) -> None:
        self.data = data
        self._last: tuple[Part, Desk] | None = None

    def of(self, part: Part) -> Desk:
        """Return the part's desk, the same as long as no other part is asked for."""
        if self._last is None or self._last[0] != part:
            self._last = None
            self._last = (part, Desk(part.of(self.data)))
        return self._last[1]

    @classmethod
    def open(cls, folder: str) -> Desks:
        """Return those of the set in a folder."""
        return cls(EmbeddingSet.open(folder))


def worker(desks: Callable[[], Desks]) -> Callable[[Trial], pd.DataFrame]:
    """Return what runs trials one after the other; those on the same part share its desk."""
    own = desks()
    return lambda trial: run(trial, own.of(trial.part))


def run(trial: Trial, desk: Desk | None = None) -> pd.DataFrame:
    """Fit, judge, and return a line for each protocol and query; `desk` is where others have run on the same part.

    The columns are protocol; query and "ranker/R@1" ... as of `Result.table`; hit, whether the list holds anything
    relevant; gallery and length, the sizes of it and of a list; best_epoch, NaN where there are no epochs; with `cost`
    the fields of `Cost`.
    """
    desk = desk or Desk(trial.part.of(EmbeddingSet.open(trial.part.folder)))
    data, direction, settings = desk.data, trial.direction, scorers.parse(trial.settings)
    if trial.cost:
        alone = {**data.meta, "fingerprint": f"{data.fingerprint} {settings.model_dump_json()}"}
        data = replace(data, meta=alone, kept=None, cut_of=data.whole)
    prepared = procedure.plan(data, direction, settings, mine=desk.mine)
    started = time.perf_counter()
    fitted = procedure.fit(data, direction, settings, prepared, refit=trial.split != "val", mine=desk.mine)
    seconds = time.perf_counter() - started
    epoch = np.nan if fitted.best_epoch is None else float(fitted.best_epoch)
    frames, device = [], pick_device(settings.device)
    for protocol in trial.protocols:
        if data.aligned:
            gallery = desk.gallery(direction, trial.split, protocol)
        else:
            gallery = first_gallery(fitted.stack, data, direction, trial.split)
        table = Result.of(fitted.stack, data, gallery, device).table()
        hit = np.asarray((gallery.lists.labels > 0).any(axis=1))
        table = table.assign(protocol=protocol, hit=hit, gallery=gallery.size, best_epoch=epoch)
        table["length"] = gallery.lists.length
        if trial.cost:
            table = table.assign(**asdict(cost_of(fitted.stack, data, gallery, device, seconds)))
        frames.append(table)
    return pd.concat(frames, ignore_index=True)
