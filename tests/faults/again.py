"""Part of the family mutate: what a command finds of its own earlier work is spoiled, and the command repeated.

It must end with what an undisturbed one leaves, or refuse with a message.
"""

from dataclasses import dataclass

from tests.faults import child, compare
from tests.faults.bench import Bench
from tests.faults.choose import Wanted
from tests.faults.mutations import spoil, unmoved
from tests.faults.scenarios import SCENARIOS
from tests.faults.settle import decent


@dataclass(frozen=True)
class Unfinished:
    """A template of unfinished or finished work, the files of it that are spoiled, and the scenario that goes on."""

    start: str
    files: str
    scenario: str
    count: int


TARGETS = {
    "checkpoint": Unfinished("checkpoint", "run/checkpoint/*", "train-epochs", 6),
    "partial": Unfinished("partial", ".set.partial/*", "embed", 3),
    "trials": Unfinished("study", "study/trials/*", "study", 1),
    "store": Unfinished("store", "mlruns/mlflow.db", "train-tracked", 2),
}
_KINDS = ("bit", "byte", "some_bytes", "head", "tail", "cut", "zeros", "doubled", "swapped")
_ONCE = ("empty", "rubbish", "blank", "missing", "folder", "other")


def cases(wanted: Wanted) -> list[str]:
    """Return the names of the cases: the n-th file that the pattern finds, the kind, a number."""
    return [
        f"mutate/{name}/{place}/{kind}/{n}"
        for name, target in TARGETS.items()
        if wanted(name)
        for place in range(1 if name == "store" else 2 if name == "checkpoint" else 4)
        for kind in (*_KINDS, *_ONCE)
        for n in range(target.count if kind in _KINDS else 1)
    ]


def run(bench: Bench, case: str) -> str | None:
    """Spoil a file and repeat the command."""
    _, name, place, kind, _ = case.split("/")
    target = TARGETS[name]
    reference = bench.reference(target.scenario)
    bench.restore(target.start)
    files = sorted(path for path in bench.place.work.glob(target.files) if path.is_file())
    if not files:
        bench.cannot(f"the template {target.start} holds no {target.files}")
    path = files[int(place) % len(files)]
    before = path.stat()
    spoil(path, kind, bench.random(case))
    unmoved(path, before)
    ended = child.run(bench.place, SCENARIOS[target.scenario].command)
    where = path.relative_to(bench.place.work)
    wrong = decent(ended)
    if ended.code == 0 and not wrong:
        wrong = compare.difference(compare.tree(bench.place.work), reference.after)
    return f"{where}: {wrong}" if wrong else None
