"""After a disturbance: what stands there meanwhile, and whether the same command, repeated, sets everything right."""

from tests.faults import child, compare, tracked
from tests.faults.bench import Bench, Reference
from tests.faults.child import Ended
from tests.faults.scenarios import Scenario

STOPPED = "MLflow tracking stopped"


def meanwhile(bench: Bench, scenario: Scenario, reference: Reference) -> str | None:
    """Say what is half-written now."""
    found = compare.tree(bench.place.work)
    return compare.half_done(found, reference.before, reference.after, scenario.whole)


def repeated(bench: Bench, scenario: Scenario, reference: Reference, before: Ended | None = None) -> str | None:
    """Run the command again, undisturbed, and say what isn't as if nothing had happened.

    Where a command on a failing disk, `before`, ended well all the same, it may have kept less for the next one; and
    where it has said that MLflow failed, its figures needn't be in the store.
    """
    well = before is not None and before.code == 0
    excused = before is not None and well and STOPPED in before.said
    again = child.run(bench.place, scenario.command)
    if again.code:
        return f"the repeat ended with {again.code}: {again.last()}"
    wrong = [compare.difference(compare.tree(bench.place.work), reference.after, kept=not well)]
    if scenario.store:
        study = scenario.command[0] == "study"  # logs its table's lines whenever it is run
        wrong.append(tracked.difference(bench.store(), reference.store, exactly=not (study or excused)))
    said = "; ".join(one for one in wrong if one)
    return f"after the repeat: {said}" if said else None


def decent(ended: Ended) -> str | None:
    """Say what is wrong with how a command ended whose disk failed: 0, or 2 with a message of ours."""
    if ended.code == -14:
        return f"hung for {ended.seconds:.0f} s: {ended.last()}"
    if ended.traceback:
        return f"a traceback (exit code {ended.code}): {ended.exception()}"
    if ended.code not in (0, 2):
        return f"exit code {ended.code}: {ended.last()}"
    if ended.code == 2 and not any(word in ended.said for word in ("rank-xmodal: ", "Error: ")):
        return f"exit code 2 without a message: {ended.last()}"
    return None
