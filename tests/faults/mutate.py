"""Family mutate: a file is spoiled and read; a reader may take 10 s and 1.5 GB, and may not crash.

Many are read in one child, each in a folder of its own, for a fork takes longer than a reading. What a child was at
when it died or hung has failed; the others of its batch go on in another child.
"""

import json
import resource
import shutil
import time
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.faults import again, child
from tests.faults.bench import Bench
from tests.faults.choose import Wanted
from tests.faults.mutations import CHANGES, ONCE, PLACES, spoil, unmoved
from tests.faults.targets import TARGETS, Target

INPUTS = 1  # of a case
SECONDS, MEMORY = 10, 1_500_000_000
FINE, REFUSED = 0, 2


def cases(bench: Bench, cut: bool, wanted: Wanted) -> list[str]:
    """Return the names of the cases."""
    if cut:
        return []
    names = again.cases(wanted)
    for name, target in TARGETS.items():
        for file in target.files if wanted(name) else ():
            stem = file.rsplit("/", 1)[-1]
            names += [f"mutate/{name}/{stem}/{kind}/{n}" for kind in CHANGES for n in range(target.count)]
            names += [f"mutate/{name}/{stem}/{kind}/0" for kind in (*ONCE, *PLACES)]
    return names


def run_many(bench: Bench, cases: list[str]) -> Iterator[tuple[str, str | None]]:
    """Spoil and read: what is read in children of many, and what is a command of its own."""
    for case in cases:
        if case.split("/")[1] in again.TARGETS:
            yield case, again.run(bench, case)
    waiting = [case for case in cases if case.split("/")[1] not in again.TARGETS]
    wanted = {name: right(bench, name) for name in {case.split("/")[1] for case in waiting}}
    answers = bench.place.base / "answers"
    while waiting:
        bench.place.restore("")
        answers.write_bytes(b"")
        todo = list(waiting)
        running = child.fork(bench.place, partial(_read_many, bench, todo, answers))
        ended = running.wait(limit=SECONDS * 2 + len(todo))
        found = [json.loads(line) for line in answers.read_text().splitlines()]
        for case, how, seconds, said in found:
            yield case, verdict(case, how, seconds, said, wanted[case.split("/")[1]])
        waiting = waiting[len(found) :]
        if waiting:
            yield waiting.pop(0), f"the reader died ({ended.code}) after {ended.seconds:.0f} s: {ended.last()}"


def verdict(case: str, how: int, seconds: float, said: str, wanted: str) -> str | None:
    """Say what is wrong with what a reader made of a spoiled file."""
    _, name, stem, _, _ = case.split("/")
    if seconds > SECONDS:
        return f"took {seconds:.0f} s"
    if how not in (FINE, REFUSED):
        return said
    # What is optional may be lacking: its part of the answer is "-" then.
    same = said == wanted or said == f"{wanted.split()[0]} -"
    if how == FINE and TARGETS[name].strict and not same and not stem.endswith(".json"):
        return "read without a word, and what was read is something else"
    return None


def right(bench: Bench, name: str) -> str:
    """Return what a reader makes of the whole files."""
    known = bench.facts.get(f"mutate/{name}")
    if known is None:
        bench.restore(TARGETS[name].start)
        answer = bench.place.base / "answer"
        answer.unlink(missing_ok=True)
        ended = child.fork(bench.place, lambda: _whole(bench, TARGETS[name], answer)).wait()
        if not answer.is_file():
            bench.cannot(f"{name}: whole files can't be read: {ended.last()}")
        known = bench.facts[f"mutate/{name}"] = answer.read_text()
    return known


def _whole(bench: Bench, target: Target, answer: Path) -> int:
    answer.write_text(target.read(bench.place.work))
    return 0


def _read_many(bench: Bench, cases: list[str], answers: Path) -> int:
    limited()
    for place, case in enumerate(cases):
        _, name, stem, kind, _ = case.split("/")
        target = TARGETS[name]
        work = bench.place.work / str(place)
        shutil.copytree(bench.place.kept / target.start, work, symlinks=True)
        path = work / next(file for file in target.files if file.rsplit("/", 1)[-1] == stem)
        before = path.stat()
        spoil(path, kind, bench.random(case))
        unmoved(path, before)
        start = time.monotonic()
        how, said = _read(target, work)
        with answers.open("a") as handle:
            handle.write(json.dumps([case, how, time.monotonic() - start, said]) + "\n")
        shutil.rmtree(work)
    return 0


def _read(target: Target, work: Path) -> tuple[int, str]:
    from rank_xmodal.errors import UserError

    try:
        return FINE, target.read(work)
    except UserError as error:
        return REFUSED, str(error)
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)
        ours = next((f"{Path(f.filename).name}:{f.lineno}" for f in reversed(where) if _is_ours(f.filename)), "?")
        return 1, f"{type(error).__name__}: {str(error)[:200]} (from {ours})"


def _is_ours(path: str) -> bool:
    return any(f"/{package}/" in path for package in ("rank_xmodal", "data_prep", "experiments")) and (
        "site-packages" not in path
    )


def limited() -> None:
    """Take no more memory than is allowed beside what the worker has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
