"""Family grammar: inputs that follow a grammar up to a point, made by hypothesis; each is taken or refused.

A property runs in one child, with a limit of 10 s for an input and of memory for all; hypothesis shrinks what fails.
"""

import json
import signal
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.faults import child, grammars
from tests.faults.bench import Bench
from tests.faults.choose import Wanted
from tests.faults.mutate import limited

SECONDS, WHOLE = 10, 240
# How many inputs of each kind, and the template that it starts from.
PROPERTIES: dict[str, tuple[int, str]] = {
    "settings-yaml": (1_000, ""),
    "settings-text": (400, ""),
    "assignments": (600, ""),
    "plan-yaml": (700, ""),
    "captions-csv": (500, "arrays"),
    "captions-text": (300, "arrays"),
    "npy-header": (700, "arrays"),
    "config-json": (500, "run"),
    "meta-json": (500, "set"),
    "karpathy-json": (400, "karpathy"),
    "command-line": (400, "run"),
}


class TooSlow(BaseException):
    """An input took too long; no product code may catch this by accident."""


def cases(bench: Bench, cut: bool, wanted: Wanted) -> list[str]:
    """Return the names of the cases, one a property."""
    return [] if cut else [f"grammar/{name}" for name in PROPERTIES if wanted(name)]


def run(bench: Bench, case: str) -> dict[str, Any]:
    """Try a property on many inputs."""
    name = case.split("/")[1]
    count, start = PROPERTIES[name]
    bench.restore(start)
    note = bench.place.base / "note"
    note.write_text(json.dumps({"inputs": 0, "last": ""}))
    ended = child.fork(bench.place, lambda: _property(name, count, bench.seed, note)).wait(limit=WHOLE)
    noted = json.loads(note.read_text())
    why = None
    if ended.code:
        lines = ended.said.strip().splitlines()
        why = " | ".join(line.strip() for line in lines[-14:])
        if ended.code != 1:
            why = f"died or hung ({ended.code}) after {ended.seconds:.0f} s at {noted['last'][:300]}: {why}"
    return {"why": why, "inputs": noted["inputs"]}


def _property(name: str, count: int, number: int, note: Path) -> int:
    """Run in the child; what is noted after each input outlives a crash."""
    limited()
    strategy, take = grammars.GRAMMARS[name]
    tried = 0
    signal.signal(signal.SIGALRM, _too_slow)

    @seed(number)
    @settings(
        max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink), report_multiple_bugs=False, print_blob=False,
    )  # fmt: skip
    @given(strategy)
    def accepted_or_refused(value: Any) -> None:
        nonlocal tried
        tried += 1
        note.write_text(json.dumps({"inputs": tried, "last": repr(value)[:400]}))
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            _quietly(take, value)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    try:
        accepted_or_refused()
    except BaseException as error:
        where = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)[-3:]]
        print(f"{type(error).__name__}: {str(error)[:300]} (at {', '.join(where)})")
        print("\n".join(getattr(error, "__notes__", []))[:700])
        return 1
    return 0


def _quietly(take: Callable[[Any, Path], None], value: Any) -> None:
    from rank_xmodal.errors import UserError

    try:
        with tempfile.TemporaryDirectory() as folder:
            take(value, Path(folder))
    except UserError:
        return


def _too_slow(*_: Any) -> None:
    raise TooSlow(f"took more than {SECONDS} s")
