"""A worker's templates and references: the states that cases start from, and what undisturbed runs leave."""

import os
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.faults import child, compare, inputs, shim, tracked
from tests.faults.child import Ended, Fault
from tests.faults.place import Place
from tests.faults.prepared import BY_HAND
from tests.faults.scenarios import SCENARIOS, TEMPLATES, Scenario


class CannotPrepare(Exception):
    """An undisturbed command failed: nothing can be said about a disturbed one."""


@dataclass(frozen=True)
class Reference:
    """An undisturbed run of a scenario: the trees before and after, the store, every write, and how long it took."""

    before: dict[str, str]
    after: dict[str, str]
    store: tracked.Store | str
    steps: list[str]
    seconds: float


class Bench:
    """What all cases of a worker share."""

    def __init__(self, base: Path, seed: int) -> None:
        self.place, self.seed = Place(base), seed
        self.preloaded = shim.loaded() is not None
        self.reference = cache(self._reference)
        self.template = cache(self._template)
        self.facts: dict[str, str] = {}  # what families keep from one case to another
        pid = os.fork()
        if pid == 0:  # torch and open_clip stay as they are in the worker itself
            try:
                inputs.make(self.place.inputs)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)

    def random(self, case: str) -> random.Random:
        """Return what a case draws its luck from: the same for the same seed and case."""
        return random.Random(f"{self.seed} {case}")

    def undisturbed(self, command: tuple[str, ...], fault: Fault | None = None) -> Ended:
        """Run a command that must succeed."""
        ended = child.run(self.place, command, fault)
        if ended.code:
            raise CannotPrepare(f"undisturbed `{' '.join(command)}` ended with {ended.code}: {ended.last()}")
        return ended

    def cannot(self, why: str) -> None:
        """Give up a case that can't be prepared."""
        raise CannotPrepare(why)

    def _template(self, name: str) -> str:
        if name in BY_HAND:
            base, make = BY_HAND[name]
            self.restore(base)
            make(self)
        else:
            base, commands = TEMPLATES[name]
            self.restore(base)
            for command in commands:
                self.undisturbed(command)
        self.place.keep(name)
        return name

    def restore(self, name: str) -> None:
        """Put the work folder into the state of a template, which is made where need be; "" is empty."""
        if name:
            self.template(name)
        self.place.restore(name)

    def scenario(self, name: str) -> Scenario:
        """Return a scenario with the work folder at its start."""
        self.restore(SCENARIOS[name].start)
        return SCENARIOS[name]

    def _reference(self, name: str) -> Reference:
        scenario = self.scenario(name)
        before = compare.tree(self.place.work)
        ended = self.undisturbed(scenario.command, Fault("count") if self.preloaded else None)
        store = self.store() if scenario.store else ""
        if scenario.store and isinstance(store, str):
            raise CannotPrepare(store)
        return Reference(before, compare.tree(self.place.work), store, ended.steps, ended.seconds)

    @cache  # noqa: B019  one bench lives as long as its process
    def events(self, name: str) -> list[str]:
        """Return the audit events of an undisturbed run."""
        scenario = self.scenario(name)
        return self.undisturbed(scenario.command, Fault("events")).steps

    def store(self) -> tracked.Store | str:
        """Return what the work folder's MLflow store says."""
        return tracked.read(self.place.work / compare.STORE)
