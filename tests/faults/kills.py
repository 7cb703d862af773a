"""Family kill: kill -9 before every write, amid a write, before every file event, and at random moments."""

from tests.faults import child
from tests.faults.bench import Bench
from tests.faults.child import Fault
from tests.faults.choose import Wanted, chosen
from tests.faults.settle import meanwhile, repeated

# By scenario: at most how many writes, audit events and moments are tried; None: all of them.
MOST: dict[str, tuple[int | None, int | None, int]] = {
    "import": (None, None, 8),
    "import-over": (None, None, 12),
    "import-tokens": (60, 24, 8),
    "import-mat": (60, 24, 8),
    "embed": (None, None, 16),
    "embed-parallel": (12, 4, 6),
    "embed-tokens": (None, None, 16),
    "embed-tokens-parallel": (8, 4, 6),
    "mine": (None, None, 6),
    "mine-parallel": (6, 2, 4),
    "train": (60, 24, 12),
    "train-epochs": (None, None, 20),
    "train-head": (40, 20, 8),
    "train-codes": (60, 24, 8),
    "train-over": (80, 30, 12),
    "train-tracked": (110, 30, 16),
    "train-first": (14, 0, 4),
    "evaluate": (None, None, 4),
    "evaluate-classes": (None, None, 4),
    "resolve": (None, None, 4),
    "report": (None, None, 4),
    "export": (None, None, 4),
    "index": (60, None, 6),
    "index-add": (None, None, 6),
    "index-remove": (None, None, 4),
    "study": (60, None, 8),
}
CUT = {"import-over": (5, 1, 0), "embed": (5, 1, 0), "mine": (3, 0, 0), "train-epochs": (10, 2, 0)}
"""Of the small cut."""


def cases(bench: Bench, cut: bool, wanted: Wanted) -> list[str]:
    """Return the names of the cases of the wanted scenarios."""
    names = []
    for scenario, (writes, events, moments) in (CUT if cut else MOST).items():
        if not wanted(scenario):
            continue
        if bench.preloaded:
            numbers = chosen(bench.reference(scenario).steps, writes, bench.random(f"kill/{scenario}"))
            names += [f"kill/{scenario}/write/{n}" for n in numbers]
        if events != 0:
            numbers = chosen(bench.events(scenario), events, bench.random(f"kill/{scenario}/event"))
            names += [f"kill/{scenario}/event/{n}" for n in numbers]
        names += [f"kill/{scenario}/moment/{n}" for n in range(moments)]
    return names


def run(bench: Bench, case: str) -> str | None:
    """Kill a command, look at what it left, run it again."""
    _, name, kind, number = case.split("/")
    reference = bench.reference(name)
    scenario = bench.scenario(name)
    if kind == "moment":
        after = bench.random(case).random() * reference.seconds
        ended = child.run(bench.place, scenario.command, kill_after=after)
        where = f"after {after:.2f} s"
    else:
        ended = child.run(bench.place, scenario.command, Fault("kill" if kind == "write" else "event", int(number)))
        where = f"at {ended.steps[0]}" if ended.steps else "nowhere"
    if ended.code not in (0, -9):
        return f"killed {where}: ended with {ended.code}: {ended.last()}"
    wrong = meanwhile(bench, scenario, reference)
    wrong = wrong or repeated(bench, scenario, reference)
    return f"killed {where}: {wrong}" if wrong else None
