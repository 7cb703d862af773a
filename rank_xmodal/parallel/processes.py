"""Several processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from rank_xmodal.errors import UserError
from rank_xmodal.parallel.executor import TRIES, Finished, Open, P, R, Worker

T = TypeVar("T")
_AHEAD = 2  # parts that wait for each worker
_SUSPECT = 2  # times that a part was lost
_IN_A_ROW = 2 * TRIES  # deaths with nothing finished between them: no part's fault


class Processes:
    """So many processes of this machine, each with its share of the cores.

    Parameters
    ----------
    workers : int, 2 or more
    """

    def __init__(self, workers: int) -> None:
        self.name, self.workers = str(workers), workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def map(self, open_: Open[P, R], parts: Iterable[P], *, gpu: bool = False) -> Iterator[Finished]:
        """Yield parts as they end; see `Executor.map`. A GPU is shared by all of them.

        When a process dies, any of the parts that were handed out may be the cause. One that was among them twice is
        tried alone: then it is known, and costs no other.
        """
        work, rest, in_a_row = Worker(open_), enumerate(parts), 0
        again: deque[tuple[int, P]] = deque()
        deaths: Counter[int] = Counter()
        doing: dict[Future[Finished], tuple[int, P]] = {}
        try:
            while True:
                while len(doing) < _AHEAD * self.workers and (one := again.popleft() if again else next(rest, None)):
                    if doing and any(deaths[number] >= _SUSPECT for number, _ in (one, *doing.values())):
                        again.appendleft(one)
                        break
                    try:
                        doing[self._started().submit(work, *one)] = one
                    except BrokenProcessPool:  # noticed before those that it was doing
                        again.appendleft(one)
                        break
                if not doing and not again:
                    return
                done = wait(doing, return_when=FIRST_COMPLETED).done if doing else set()
                lost, died = [], not doing
                for future in done:
                    one = doing.pop(future)
                    try:
                        finished = future.result()
                    except BrokenProcessPool:
                        lost.append(one)
                        continue
                    in_a_row = 0
                    yield finished
                if died or lost:
                    in_a_row += 1
                    self._stop()
                    lost.extend(doing.values())
                    doing.clear()
                    if in_a_row == _IN_A_ROW:
                        raise UserError(_died(f"Worker processes died {in_a_row} times in a row", self.workers))
                    for number, part in lost:
                        deaths[number] += 1
                        if deaths[number] < TRIES:
                            again.append((number, part))
                        else:
                            what = f"--parallel {self.name}: part {number} was lost {TRIES} times, as its process died"
                            yield Finished(number, None, UserError(_died(what, self.workers)))
        finally:
            for future in doing:
                future.cancel()

    def device(self, asked: str) -> str:
        """Return its name, which the processes of a machine have in common."""
        return asked

    def owned(self, value: T, again: Callable[[], T]) -> Callable[[], T]:
        """Return `again`."""
        return again

    shared = owned  # files are mapped by every process, and lie in memory once

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            threads = max(1, (os.cpu_count() or 1) // self.workers)
            # Not forked: a fork of a process whose threads hold locks can wait for ever.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, context, _begin, (os.getpid(), threads))
        return self._pool

    def _stop(self) -> None:
        """End the processes at once: what they were doing isn't asked for any more."""
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        processes = list((getattr(pool, "_processes", None) or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _died(what: str, workers: int) -> str:
    fewer = f"Use fewer: --parallel {workers - 1}" if workers > 2 else "Leave --parallel out"
    return f"{what}, as when memory runs out. {fewer}."


def _begin(parent: int, threads: int) -> None:
    """Prepare a worker: Ctrl-C is its parent's to handle, which it doesn't outlive."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    import torch

    torch.set_num_threads(threads)


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
