"""Several processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from rank_xmodal.errors import UserError
from rank_xmodal.parallel.executor import Finished, Open, P, R, Worker

T = TypeVar("T")
_AHEAD = 2  # parts that wait for each worker
_DEATHS = 3  # in a row without a part finished: it is no accident


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
        """Yield parts as they end; see `Executor.map`. A GPU is shared by all of them."""
        work, rest, deaths = Worker(open_), enumerate(parts), 0
        again: deque[tuple[int, P]] = deque()
        doing: dict[Future[Finished], tuple[int, P]] = {}
        try:
            while True:
                while len(doing) < _AHEAD * self.workers and (one := again.popleft() if again else next(rest, None)):
                    try:
                        doing[self._started().submit(work, *one)] = one
                    except BrokenProcessPool:  # noticed before those that it was doing
                        again.appendleft(one)
                        break
                if not doing and not again:
                    return
                done = wait(doing, return_when=FIRST_COMPLETED).done if doing else set()
                died = not doing
                for future in done:
                    one = doing.pop(future)
                    try:
                        finished = future.result()
                    except BrokenProcessPool:
                        again.append(one)
                        died = True
                        continue
                    deaths = 0
                    yield finished
                if died:
                    deaths += 1
                    self._stop()
                    again.extend(doing.values())
                    doing.clear()
                    if deaths == _DEATHS:
                        raise UserError(_died(deaths, self.workers))
        finally:
            for future in doing:
                future.cancel()

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


def _died(deaths: int, workers: int) -> str:
    fewer = f"Use fewer: --parallel {workers - 1}" if workers > 2 else "Leave --parallel out"
    return f"A worker process died {deaths} times in a row with nothing finished, as when memory runs out. {fewer}."


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
