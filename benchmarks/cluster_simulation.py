"""A job of independent parts on a cluster whose machines fail: hours, and the share of the work that is lost.

``python -m benchmarks.cluster_simulation --parts 97657 --workers 64 --seconds 68 --mtbf 24`` prints one row for each
mean time between failures. What is simulated is `rank_xmodal.parallel.on_ray`: the driver hands out two parts for each
worker, takes results one at a time, writes each, and hands out another part for it; a machine that fails takes with it
the parts that it was at and the results on it that the driver has not taken, and they are done again. That the driver
itself fails is not simulated: what it has written is kept then, and the same command goes on.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
from collections import deque
from dataclasses import dataclass

_AHEAD = 2  # parts in flight for each worker
_ATTEMPTS = 5  # at a part, before the real job gives up


@dataclass(frozen=True)
class Job:
    """What is simulated; all times are in seconds.

    Attributes
    ----------
    parts : int
    workers : int
    seconds : float
        The mean duration of a part.
    spread : float
        Standard deviation of the logarithm of a part's duration; with 0 all take the mean.
    per_machine : int
        Workers on a machine, which fail together.
    mtbf : float
        Mean time between two failures of a machine that is up, exponentially distributed; infinite for none.
    replaced : float
        How long until another machine stands in its place.
    writing : float
        How long the driver is busy with a finished part.
    """

    parts: int
    workers: int
    seconds: float
    spread: float = 0.0
    per_machine: int = 1
    mtbf: float = math.inf
    replaced: float = 600.0
    writing: float = 0.0

    def __post_init__(self) -> None:
        if min(self.parts, self.workers, self.per_machine) < 1 or min(self.seconds, self.mtbf) <= 0:
            raise ValueError(f"{self}: parts, workers and their times must be positive.")
        if min(self.spread, self.replaced, self.writing) < 0:
            raise ValueError(f"{self}: no time and no spread is negative.")


@dataclass(frozen=True)
class Outcome:
    """How a job went.

    Attributes
    ----------
    hours : float
        Until the last part was written.
    lost : float
        Share of the workers' computing that was lost with machines, 0 to 1.
    failures : int
    driver : float
        Share of the time that the driver was busy.
    most : int
        How often the part that was begun most often was begun; above 5 the real job would have given up.
    """

    hours: float
    lost: float
    failures: int
    driver: float
    most: int

    @property
    def given_up(self) -> bool:
        """Whether the real job would have ended with an error."""
        return self.most > _ATTEMPTS


class _Cluster:
    """The state of a simulation; a method for each kind of event."""

    def __init__(self, job: Job, seed: int) -> None:
        self.job = job
        durations, self.chance = random.Random(f"{seed} parts"), random.Random(f"{seed} failures")
        middle = math.log(job.seconds) - job.spread**2 / 2
        self.durations = [
            durations.lognormvariate(middle, job.spread) if job.spread else job.seconds for _ in range(job.parts)
        ]
        self.now, self.order = 0.0, 0
        self.events: list[tuple[float, int, str, int, int]] = []  # time, order, kind, who, and his life or the part
        self.machines = -(-job.workers // job.per_machine)
        self.up = [True] * self.machines
        self.life = [0] * job.workers  # one more with each failure: what was to happen to the last one doesn't
        self.doing: dict[int, tuple[int, float]] = {}  # by worker: the part, and since when
        self.idle = deque(range(job.workers))
        self.waiting: deque[int] = deque()  # parts that were handed out and not begun
        self.finished: dict[int, int] = {}  # parts that the driver has not taken, by worker; in their order
        self.begun = [0] * job.parts
        self.handed = self.written = self.failures = 0
        self.useful = self.lost = self.busy = 0.0
        self.writes = False

    def at(self, after: float, kind: str, who: int, which: int = 0) -> None:
        self.order += 1
        heapq.heappush(self.events, (self.now + after, self.order, kind, who, which))

    def hand_out(self) -> None:
        if self.handed < self.job.parts:
            self.waiting.append(self.handed)
            self.handed += 1

    def begin(self) -> None:
        """Give waiting parts to idle workers."""
        while self.waiting and self.idle:
            worker = self.idle.popleft()
            if not self.up[worker // self.job.per_machine] or worker in self.doing:
                continue
            part = self.waiting.popleft()
            self.begun[part] += 1
            self.doing[worker] = (part, self.now)
            self.at(self.durations[part], "done", worker, self.life[worker])

    def take(self) -> None:
        """Let the driver take the next result, if it is free."""
        if not self.writes and self.finished:
            part = next(iter(self.finished))
            del self.finished[part]
            self.writes = True
            self.busy += self.job.writing
            self.at(self.job.writing, "written", part)

    def done(self, worker: int, life: int) -> None:
        if life != self.life[worker]:
            return
        part, _ = self.doing.pop(worker)
        self.finished[part] = worker
        self.useful += self.durations[part]
        self.idle.append(worker)

    def failed(self, machine: int) -> None:
        self.failures += 1
        self.up[machine] = False
        workers = range(machine * self.job.per_machine, min((machine + 1) * self.job.per_machine, self.job.workers))
        for worker in workers:
            self.life[worker] += 1
            if worker in self.doing:
                part, since = self.doing.pop(worker)
                self.lost += self.now - since
                self.waiting.appendleft(part)
        for part in [part for part, worker in self.finished.items() if worker in workers]:
            del self.finished[part]
            self.lost += self.durations[part]
            self.useful -= self.durations[part]
            self.waiting.appendleft(part)
        gone = set(workers)
        self.idle = deque(worker for worker in self.idle if worker not in gone)
        self.at(self.job.replaced, "replaced", machine)

    def came_back(self, machine: int) -> None:
        self.up[machine] = True
        first = machine * self.job.per_machine
        self.idle.extend(range(first, min(first + self.job.per_machine, self.job.workers)))
        self.live(machine)

    def live(self, machine: int) -> None:
        """Draw when a machine fails."""
        if math.isfinite(self.job.mtbf):
            self.at(self.chance.expovariate(1 / self.job.mtbf), "failed", machine)


def simulate(job: Job, seed: int = 0) -> Outcome:
    """Return how a job goes; the same seed gives the same, and the same parts whatever fails."""
    cluster = _Cluster(job, seed)
    for machine in range(cluster.machines):
        cluster.live(machine)
    for _ in range(_AHEAD * job.workers):
        cluster.hand_out()
    cluster.begin()
    while cluster.written < job.parts:
        cluster.now, _, kind, who, which = heapq.heappop(cluster.events)
        if kind == "done":
            cluster.done(who, which)
        elif kind == "written":
            cluster.written += 1
            cluster.writes = False
            cluster.hand_out()
        elif kind == "failed":
            cluster.failed(who)
        else:
            cluster.came_back(who)
        cluster.take()
        cluster.begin()
    hours, computed = cluster.now / 3600, cluster.useful + cluster.lost
    return Outcome(
        hours, cluster.lost / computed, cluster.failures, cluster.busy / max(cluster.now, 1e-12), max(cluster.begun)
    )


def main() -> None:
    """Print a table: a row for each mean time between failures of a machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="a part's mean duration")
    parser.add_argument("--spread", type=float, default=0.3, help="standard deviation of its logarithm")
    parser.add_argument("--per-machine", type=int, default=1, help="workers that fail together")
    parser.add_argument("--mtbf", type=float, nargs="*", default=[], help="mean hours between a machine's failures")
    parser.add_argument("--replaced", type=float, default=600.0, help="seconds until a machine is replaced")
    parser.add_argument("--writing", type=float, default=0.0, help="the driver's seconds for a part")
    parser.add_argument("--seeds", type=int, default=3)
    told = parser.parse_args()
    print("| a machine fails every | hours | lost | failures | driver busy | begun at most |")
    print("|---|---:|---:|---:|---:|---:|")
    for hours in [math.inf, *told.mtbf]:
        job = Job(told.parts, told.workers, told.seconds, told.spread, told.per_machine, 3600 * hours, told.replaced,
                  told.writing)  # fmt: skip
        found = [simulate(job, seed) for seed in range(told.seeds)]
        mean = {
            name: sum(getattr(one, name) for one in found) / len(found)
            for name in ("hours", "lost", "failures", "driver")
        }
        name = f"{hours:g} h" if math.isfinite(hours) else "never"
        most = max(one.most for one in found)
        print(
            f"| {name} | {mean['hours']:,.2f} | {100 * mean['lost']:.2f} % | {mean['failures']:,.0f} "
            f"| {100 * mean['driver']:.1f} % | {most} |"
        )


if __name__ == "__main__":
    main()
