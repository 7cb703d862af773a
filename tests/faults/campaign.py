"""Two workers, the cases of each family, and what came of them."""

import json
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import shim
from tests.faults.worker import QUIET

Tell = Callable[[str, dict], None]
ROOT = Path(__file__).parents[2]
PACKAGES = ("rank_xmodal", "data_prep", "experiments", "tests/faults")
WEIGHTS = {"readonly": 3, "together": 4, "grammar": 12, "mutate": 18, "disk": 30, "kill": 33}
"""The families in their order, and their shares of the time; what one leaves over, the next ones have."""


CUT = ("readonly", "disk", "kill")
"""The families that have cases in the small cut."""
BATCHES = {"mutate": 40}
"""How many cases of a family a worker is sent at once."""


@dataclass
class Tally:
    """What came of a family's cases."""

    cases: int = 0
    left_out: int = 0
    inputs: int = 0
    seconds: float = 0.0
    failures: dict[str, str] = field(default_factory=dict)


class Worker:
    """A worker process and the talk with it."""

    def __init__(self, base: Path, seed: int, library: Path | None, product: Path) -> None:
        environment = {**os.environ, **QUIET, "PYTHONPATH": str(product), "PYTHONHASHSEED": "0"}
        if library is not None:
            environment["LD_PRELOAD"] = str(library)
        self.log = (base.parent / f"{base.name}.log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.worker", str(base), str(seed)],
            cwd=product, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
        )  # fmt: skip

    def ready(self) -> dict:
        """Wait until it has imported the product."""
        return self._answer()

    def ask(self, **request: object) -> dict:
        """Send a request and wait for the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def answers(self, cases: list[str]) -> Iterator[dict]:
        """Send cases, and yield what came of each."""
        yield self.ask(run=cases)
        for _ in cases[1:]:
            yield self._answer()

    def _answer(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            said = Path(self.log.name).read_text(errors="replace")[-2_000:]
            raise RuntimeError(f"a worker of the campaign died:\n{said}")
        return json.loads(line)

    def end(self) -> None:
        """Let it go."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()


def told(worker: Worker, cases: list[str]) -> Iterator[dict]:
    """Yield a worker's answers; where it dies, that is one for each case that it still owes."""
    owed = list(cases)
    try:
        for answer in worker.answers(cases):
            owed.remove(answer["case"])
            yield answer
    except (RuntimeError, OSError) as error:
        yield from ({"case": case, "why": str(error), "seconds": 0.0} for case in owed)


class Campaign:
    """Runs families of cases on its workers."""

    def __init__(self, seed: int, workers: int = 2) -> None:
        self.seed = seed
        shm = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="rank-xmodal-faults-", dir=shm if shm.is_dir() else None))
        self.folder.chmod(0o755)  # some cases look at it as another user
        library = shim.compiled(self.folder)
        product = self.folder / "product"  # as it is now: somebody may edit it meanwhile
        for package in PACKAGES:
            shutil.copytree(ROOT / package, product / package)
        self.workers = [Worker(self.folder / f"w{i}", seed, library, product) for i in range(workers)]
        ready = [worker.ready() for worker in self.workers]
        self.preloaded = all(answer["preloaded"] for answer in ready)

    def close(self) -> None:
        """End the workers and clean up."""
        for worker in self.workers:
            worker.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def names(self, family: str, cut: bool, only: list[str]) -> tuple[list[str], str | None]:
        """Return the names of a family's cases, and why there are none where they can't be prepared."""
        answer = self.workers[0].ask(list=family, cut=cut, only=only)
        return answer["cases"], answer.get("broken")

    def run(self, names: list[str], seconds: float, tell: Tell, batch: int = 1) -> Tally:
        """Run cases on all workers, `batch` at a time, for that long; `tell` is called with each answer."""
        tally, waiting, lock = Tally(), queue.SimpleQueue(), threading.Lock()
        batches = [names[start : start + batch] for start in range(0, len(names), batch)]
        random.Random(self.seed).shuffle(batches)  # where time is short, each command has lost some cases, and none all
        for one in batches:
            waiting.put(one)
        began = time.monotonic()

        def work(worker: Worker) -> None:
            while time.monotonic() - began < seconds:
                try:
                    batch = waiting.get_nowait()
                except queue.Empty:
                    return
                for answer in told(worker, batch):
                    with lock:
                        tally.cases += 1
                        tally.inputs += answer.get("inputs") or 0
                        if answer["why"]:
                            tally.failures[answer["case"]] = answer["why"]
                        tell(answer["case"], answer)

        threads = [threading.Thread(target=work, args=(worker,)) for worker in self.workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        tally.left_out, tally.seconds = len(names) - tally.cases, time.monotonic() - began
        return tally
