"""Family together: two of the same command at the same moment, or two first trainings that share a new MLflow store."""

from dataclasses import dataclass

from tests.faults import child, compare, tracked
from tests.faults.bench import Bench
from tests.faults.child import Fault
from tests.faults.choose import Wanted
from tests.faults.scenarios import PLAIN, SCENARIOS
from tests.faults.settle import decent

TIMES = {
    "import": 6, "import-over": 6, "import-mat": 4, "embed": 6, "embed-tokens": 4, "mine": 6, "train-epochs": 8,
    "train-head": 4, "train-codes": 4, "train-over": 6, "train-tracked": 6, "study": 4, "train-first": 3,
    "first-of-two": 4, "index": 4, "index-add": 6, "index-remove": 4,
}  # fmt: skip
"""By scenario, how often it is tried, each time with another moment between the two."""
_FIRST = (("one", (*PLAIN, "--out", "one")), ("two", (*PLAIN, "--seed", "1", "--out", "two")))


@dataclass(frozen=True)
class Pair:
    """How the two ended."""

    ended: tuple[child.Ended, child.Ended]

    def wrong(self) -> str | None:
        """Say what is wrong with how they ended: one must succeed, the other may refuse."""
        for one in self.ended:
            if said := decent(one):
                return said
        if all(one.code for one in self.ended):
            return f"both refused: {self.ended[0].last(2)} / {self.ended[1].last(2)}"
        return None


def cases(bench: Bench, cut: bool, wanted: Wanted) -> list[str]:
    """Return the names of the cases."""
    if cut:
        return []
    return [f"together/{name}/{n}" for name, times in TIMES.items() if wanted(name) for n in range(times)]


def _pair(bench: Bench, one: tuple[str, ...], other: tuple[str, ...], pause: float) -> Pair:
    def wait() -> None:
        import time

        time.sleep(pause)

    first = child.start(bench.place, one, name="one")
    second = child.start(bench.place, other, Fault("none", before=wait), name="two")
    return Pair((first.wait(), second.wait()))


def run(bench: Bench, case: str) -> str | None:
    """Run the two, look at the result, and run the command a third time."""
    _, name, number = case.split("/")
    pause = 0.0 if number == "0" else bench.random(case).random() * 0.4
    if name == "first-of-two":
        return _first_of_two(bench, pause)
    reference = bench.reference(name)
    scenario = bench.scenario(name)
    if wrong := _pair(bench, scenario.command, scenario.command, pause).wrong():
        return f"{pause:.2f} s apart: {wrong}"
    found = compare.tree(bench.place.work)
    problems = [compare.difference(found, reference.after)]
    if scenario.store:
        study = scenario.command[0] == "study"  # logs its table's lines whenever it is run
        problems.append(tracked.difference(bench.store(), reference.store, exactly=not study))
    again = child.run(bench.place, SCENARIOS[name].command)
    if again.code:
        if "--overwrite" not in scenario.command and scenario.command[0] == "import":
            pass  # an import doesn't replace what is there, be it the same
        else:
            problems.append(f"a third one ended with {again.code}: {again.last()}")
    said = "; ".join(one for one in problems if one)
    return f"{pause:.2f} s apart: {said}" if said else None


def _first_of_two(bench: Bench, pause: float) -> str | None:
    bench.restore("set")
    (_, one), (_, other) = _FIRST
    pair = _pair(bench, one, other, pause)
    if wrong := pair.wrong():
        return f"{pause:.2f} s apart: {wrong}"
    if any(ended.code for ended in pair.ended):
        return f"{pause:.2f} s apart: one refused: {[ended.last(2) for ended in pair.ended if ended.code]}"
    store = bench.store()
    if isinstance(store, str):
        return store
    runs = dict(store.statuses), len(store.finished)
    # Two trainings, and CLIP and CSLS beside them: a row of each for both, and none twice.
    if runs != ({"FINISHED": 4}, 4):
        said = [line for ended in pair.ended for line in ended.said.splitlines() if "MLflow" in line]
        return f"{pause:.2f} s apart: not both tracked: {dict(store.statuses)} {said[:2]}"
    return None
