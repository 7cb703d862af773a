"""Family disk: each write fails once, for a full disk (from then on) or a broken one, or is cut short."""

import errno

from tests.faults import child
from tests.faults.bench import Bench
from tests.faults.child import Fault
from tests.faults.choose import Wanted, chosen
from tests.faults.settle import decent, meanwhile, repeated

KINDS = {
    "ENOSPC": ("full", errno.ENOSPC),
    "EIO": ("once", errno.EIO),
    "short": ("short", errno.ENOSPC),
    "EROFS": ("once", errno.EROFS),
}
# By scenario: at most how many writes fail by ENOSPC and by EIO, are cut short, and fail by EROFS; None: all.
MOST: dict[str, tuple[int | None, int | None, int, int]] = {
    "import": (None, None, 12, 12),
    "import-over": (30, 30, 8, 8),
    "import-tokens": (30, 30, 8, 8),
    "import-mat": (30, 30, 8, 8),
    "embed": (None, None, 12, 12),
    "embed-tokens": (None, None, 12, 12),
    "mine": (None, None, 6, 6),
    "train": (24, 24, 4, 4),
    "train-epochs": (None, None, 12, 12),
    "train-head": (20, 20, 4, 4),
    "train-codes": (24, 24, 4, 4),
    "train-tracked": (40, 40, 6, 6),
    "train-first": (5, 5, 2, 2),
    "evaluate": (None, None, 2, 2),
    "evaluate-classes": (None, None, 2, 2),
    "resolve": (None, None, 2, 2),
    "report": (None, None, 2, 2),
    "export": (None, None, 4, 4),
    "index": (30, 30, 4, 4),
    "index-add": (None, None, 6, 6),
    "index-remove": (None, None, 4, 4),
    "study": (40, 40, 4, 4),
}
CUT = {"import": (4, 4, 1, 1), "embed": (4, 4, 1, 0), "mine": (3, 3, 1, 1), "train-epochs": (8, 8, 1, 1)}
"""Of the small cut."""


def cases(bench: Bench, cut: bool, wanted: Wanted) -> list[str]:
    """Return the names of the cases; none without the preloaded library, which the campaign says aloud."""
    if not bench.preloaded:
        return []
    return [
        f"disk/{scenario}/{kind}/{n}"
        for scenario, most in (CUT if cut else MOST).items()
        if wanted(scenario)
        for kind, count in zip(KINDS, most, strict=True)
        for n in chosen(bench.reference(scenario).steps, count, bench.random(f"disk/{scenario}/{kind}"))
    ]


def run(bench: Bench, case: str) -> str | None:
    """Let a write fail, look at how the command ended and what it left, run it again."""
    _, name, kind, number = case.split("/")
    reference = bench.reference(name)
    scenario = bench.scenario(name)
    how, error = KINDS[kind]
    ended = child.run(bench.place, scenario.command, Fault(how, int(number), error))
    where = f"{kind} at {ended.steps[0]}" if ended.steps else "nothing failed"
    problems = [decent(ended), meanwhile(bench, scenario, reference), repeated(bench, scenario, reference, ended)]
    wrong = "; ".join(one for one in problems if one)
    return f"{where}: {wrong}" if wrong else None
