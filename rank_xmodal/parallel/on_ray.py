"""A Ray cluster, or Ray on this machine."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from rank_xmodal.errors import UserError, first_line
from rank_xmodal.parallel.executor import TRIES, Finished, Open, P, R, Worker

T = TypeVar("T")
_AHEAD = 2  # parts that wait for each worker
_PATIENCE = 10.0  # seconds


class OnRay:
    """The cluster that RAY_ADDRESS names, or else Ray on this machine, started here and ended with the context.

    Every machine of it has rank_xmodal, and finds files under the paths that this one does.

    Raises
    ------
    UserError
        If Ray is not installed, or the cluster can't be reached.
    """

    name = "ray"

    def __init__(self) -> None:
        check_there()
        import ray

        self._ray, self._ours = ray, False
        if not ray.is_initialized():
            address = os.environ.get("RAY_ADDRESS")
            # Without an address Ray starts itself here: a cluster that somebody else left running isn't taken.
            options: dict[str, Any] = {"address": address} if address else {"address": "local"}
            if not address:
                options |= {"include_dashboard": False}
            try:
                ray.init(**options, logging_level=logging.ERROR, log_to_driver=False)
            except (ConnectionError, ValueError, RuntimeError, OSError) as error:
                where = f"RAY_ADDRESS={address}" if address else "--parallel ray"
                remedy = "Is the cluster up?" if address else "Use --parallel 2, or another number."
                raise UserError(f"{where}: Ray doesn't start ({first_line(error)}). {remedy}") from error
            self._ours = True
        there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        self.workers, self._gpus = max(1, int(there.get("CPU", 1))), int(there.get("GPU", 0))

    def __enter__(self) -> OnRay:
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            self._ray.shutdown()

    def map(self, open_: Open[P, R], parts: Iterable[P], *, gpu: bool = False) -> Iterator[Finished]:
        """Yield parts as they end; see `Executor.map`. Each takes a core; one that wants a GPU takes that, if any."""
        ray = self._ray
        takes: dict[str, Any] = {"num_cpus": 1}
        at_once = self.workers
        if gpu and self._gpus:
            at_once = self._gpus
            takes = {"num_cpus": _cores_for_a_gpu(ray.nodes()), "num_gpus": 1}
        task = ray.remote(max_retries=TRIES - 1, **takes)(_do)
        lost = ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError
        work, rest = ray.put(Worker(open_)), enumerate(parts)
        doing: dict[Any, int] = {}
        try:
            while True:
                while len(doing) < _AHEAD * at_once and (one := next(rest, None)):
                    doing[task.remote(work, *one)] = one[0]
                if not doing:
                    return
                for done in ray.wait(list(doing), num_returns=1)[0]:
                    number = doing.pop(done)
                    try:
                        finished = ray.get(done)
                    except lost as error:
                        finished = Finished(number, None, UserError(_died(number, error)))
                    except ray.exceptions.RaySystemError as error:  # e.g. a module that isn't there
                        raise UserError(_cannot(error)) from error
                    yield finished
        finally:
            for one in doing:
                with contextlib.suppress(Exception):  # the cluster may be gone: what went wrong before is told
                    ray.cancel(one, force=True)

    def device(self, asked: str) -> str:
        """Return "cuda" for a GPU of the cluster, as a worker sees its own alone, else "cpu"."""
        return "cuda" if self._gpus and asked != "cpu" else "cpu"

    def owned(self, value: T, again: Callable[[], T]) -> Callable[[], T]:
        """Return `again`."""
        return again

    def shared(self, value: T, again: Callable[[], T]) -> Callable[[], T]:
        """Return what gets the value from the object store, of which each machine holds one copy."""
        return functools.partial(_from_store, [self._ray.put(value)])


def check_there() -> None:
    """Find out at once what Ray itself asks for several minutes.

    Raises
    ------
    UserError
        If Ray is not installed, or nothing answers at RAY_ADDRESS.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError("--parallel ray: Ray is not installed. pip install 'rank-xmodal[ray]'")
    address = os.environ.get("RAY_ADDRESS")
    host, colon, port = (address or "").rpartition("/")[2].rpartition(":")
    if colon and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), _PATIENCE).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"RAY_ADDRESS={address}: nothing answers there ({error}). Is the cluster up?") from error


def _died(number: int, error: Exception) -> str:
    return (
        f"--parallel ray: part {number} was lost {TRIES} times ({first_line(error)}). If it lacked memory, use "
        "machines with more, or fewer cores each."
    )


def _cannot(error: Exception) -> str:
    said = [line for line in str(error).splitlines() if line.strip()]
    return (
        f"--parallel ray: a worker can't do a part ({said[-1].strip() if said else first_line(error)}). Every machine "
        "needs rank_xmodal in the same version."
    )


def _cores_for_a_gpu(nodes: list[dict[str, Any]]) -> int:
    """Return how many cores a part with a GPU may ask for, so that every machine with GPUs can use all of them."""
    there = [node["Resources"] for node in nodes if node["Alive"]]
    return max(1, min((int(one.get("CPU", 1) // one["GPU"]) for one in there if one.get("GPU")), default=1))


def _do(work: Worker, number: int, part: Any) -> Finished:
    import torch

    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))  # as Ray has counted it
    return work(number, part)


def _from_store(reference: list[Any]) -> Any:
    import ray

    return ray.get(reference[0])  # in a list: a bare one would be fetched before anybody asks
