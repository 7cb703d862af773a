"""Batches through a model, one on each core: the bits are the same on any number of cores."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

B = TypeVar("B")
R = TypeVar("R")


def threads_for(device: torch.device) -> int:
    """Return how many batches are computed at a time: one on a GPU, else as many as torch would use threads."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def computed(work: Callable[[B], R], batches: Iterable[B], threads: int) -> Iterator[R]:
    """Yield what `work` makes of each batch, in their order.

    A product whose sums are shared among threads may differ in its last bit from one computed by a single thread, and
    so could an embedding; batches shared among threads don't.

    Parameters
    ----------
    work : callable
    batches : iterable
        Taken when a thread is free for them soon: what fails costs no more than the few that are in work.
    threads : int
    """
    waiting: deque[Future[R]] = deque()
    most = threads + 1 if threads > 1 else 1  # so that of several none waits while a result is taken
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "compute", torch.set_num_threads, (1,))  # which counts for its own thread
    try:
        for batch in batches:
            waiting.append(pool.submit(work, batch))
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)  # what threads begin with that are yet to come
