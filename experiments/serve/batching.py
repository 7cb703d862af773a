"""Queries of several clients are answered together: one thread computes, and what arrives meanwhile waits for it."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from experiments.serve.corpora import Corpus
from experiments.serve.metrics import Metrics
from experiments.use.queries import Queries
from experiments.use.searcher import Answer, Searcher
from rank_xmodal.retrieval.gallery import DEPTH

MOST = 32
"""Queries answered together."""
WAIT = 0.002
"""Seconds that the first of a batch waits for others; those that come while a batch is computed need not wait."""


@dataclass(frozen=True)
class Asked:
    """A query.

    Attributes
    ----------
    direction : "t2i" or "i2t"
    given : str or Pillow image
    k, depth : int
    where : dict
    """

    direction: str
    given: Any
    k: int = 10
    depth: int = DEPTH
    where: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> tuple[int, str]:
        """What must be one of queries that are searched together: the list that the ranker sees."""
        return max(self.depth, self.k), json.dumps(self.where, sort_keys=True)


@dataclass(frozen=True)
class Answered:
    """Its answer, how many queries were answered together, and how long it waited for its turn."""

    answer: Answer
    batch: int
    waited: float


@dataclass
class _Job:
    asked: Asked
    came: float
    future: Future[Answered] = field(default_factory=Future)


class Batcher:
    """The queue and the thread behind it.

    Parameters
    ----------
    corpora : mapping of direction to Corpus
    metrics : Metrics
    threads : int
        Threads of torch in a batch.
    most, wait
        See `MOST` and `WAIT`.
    """

    def __init__(
        self, corpora: Mapping[str, Corpus], metrics: Metrics, threads: int = 1, *, most: int = MOST, wait: float = WAIT
    ) -> None:
        self.corpora, self.metrics, self.threads, self.most, self.wait = corpora, metrics, threads, most, wait
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="rank-xmodal-search", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what was asked, and end the thread."""
        self._jobs.put(None)
        self._thread.join(timeout=30)

    @property
    def alive(self) -> bool:
        """Whether queries are answered."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Queries that nobody has begun to answer."""
        return self._jobs.qsize()

    async def ask(self, asked: Asked) -> Answered:
        """Return the answer to a query once it had its turn.

        Raises
        ------
        UserError
            As `Searcher.search`.
        """
        job = _Job(asked, time.perf_counter())
        self._jobs.put(job)
        return await asyncio.wrap_future(job.future)

    def _work(self) -> None:
        torch.set_num_threads(self.threads)
        while (first := self._jobs.get()) is not None:
            jobs, stopping = [first], False
            until = time.perf_counter() + self.wait
            while len(jobs) < self.most:
                try:
                    job = self._jobs.get(timeout=max(0.0, until - time.perf_counter()))
                except queue.Empty:
                    break
                if job is None:
                    stopping = True
                    break
                jobs.append(job)
            self._finish([job for job in jobs if job.future.set_running_or_notify_cancel()])
            if stopping:
                return

    def _finish(self, jobs: list[_Job]) -> None:
        if not jobs:
            return
        try:
            self.metrics.reloads.inc(sum(corpus.refresh() for corpus in self.corpora.values()))
            begun = time.perf_counter()
            for job, answer in zip(jobs, self.answer([job.asked for job in jobs]), strict=True):
                job.future.set_result(Answered(answer, len(jobs), begun - job.came))
        except BaseException as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
                return
            for job in jobs:  # one may be at fault; the others shall have their answers
                if not job.future.done():
                    self._finish([job])

    def answer(self, batch: Sequence[Asked]) -> list[Answer]:
        """Answer queries in the order in which they are given."""
        self.metrics.batch.observe(len(batch))
        found: dict[int, Answer] = {}
        for direction in sorted({asked.direction for asked in batch}):
            places = [place for place, asked in enumerate(batch) if asked.direction == direction]
            searcher = self.corpora[direction].searcher
            queries = searcher.queries([batch[place].given for place in places])
            self.metrics.encode.observe(queries.seconds)
            found |= zip(places, self._searched(searcher, queries, [batch[place] for place in places]), strict=True)
        return [found[place] for place in range(len(batch))]

    def _searched(self, searcher: Searcher, queries: Queries, batch: list[Asked]) -> list[Answer]:
        kinds: dict[tuple[int, str], list[int]] = defaultdict(list)
        for place, asked in enumerate(batch):
            kinds[asked.kind].append(place)
        found: dict[int, Answer] = {}
        for (depth, _), places in kinds.items():
            most = max(batch[place].k for place in places)
            answers = searcher.search(queries.select(places), most, depth=depth, where=batch[places[0]].where)
            self.metrics.search.observe(answers[0].search_seconds)
            for place, answer in zip(places, answers, strict=True):
                k = batch[place].k
                found[place] = replace(answer, hits=answer.hits[:k], clip=answer.clip[:k])
        return [found[place] for place in range(len(batch))]
