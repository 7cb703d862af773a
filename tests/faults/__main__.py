"""The fault campaign: python -m tests.faults."""

import argparse
import sys
import time

from tests.faults.campaign import BATCHES, CUT, WEIGHTS, Campaign, Tally


def main() -> int:
    """Run it; 1 where a case failed, 2 where the campaign itself can't run."""
    parser = argparse.ArgumentParser("python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", metavar="CASE", help="a case, or the beginning of several")
    parser.add_argument("--family", action="append", choices=[*WEIGHTS], help="these families only")
    parser.add_argument("--minutes", type=float, default=15.0, help="what isn't done by then is left out, and said so")
    parser.add_argument("--cut", action="store_true", help="the few cases of the test suite")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument("--verbose", action="store_true", help="print each case")
    options = parser.parse_args()
    began = time.monotonic()
    campaign = Campaign(options.seed, options.workers)
    try:
        if not campaign.preloaded:
            print(
                "NO C COMPILER: the family disk and the kills amid writes are LEFT OUT; nothing can count C's writes."
            )
        tallies = campaign_of(campaign, options, began)
    finally:
        campaign.close()
    return summary(tallies, options.seed, time.monotonic() - began)


def campaign_of(campaign: Campaign, options: argparse.Namespace, began: float) -> dict[str, Tally]:
    """Run the families one after the other."""
    chosen = options.family or [family for family in WEIGHTS if not options.cut or family in CUT]
    if options.only:
        chosen = [family for family in WEIGHTS if any(case.split("/")[0] == family for case in options.only)]
    tallies: dict[str, Tally] = {}
    for place, family in enumerate(chosen):
        start = time.monotonic()
        wanted = [case for case in options.only or [] if case.split("/")[0] == family]
        names, broken = campaign.names(family, options.cut, wanted)
        if wanted:
            names = picked(names, wanted)
        if options.list:
            print("\n".join(names))
            continue
        left = options.minutes * 60 - (time.monotonic() - began)
        share = left * WEIGHTS[family] / sum(WEIGHTS[other] for other in chosen[place:])
        tally = campaign.run(
            names, share, lambda name, answer: tell(name, answer, options.verbose), BATCHES.get(family, 1)
        )
        tally.seconds = time.monotonic() - start
        if broken:
            tally.failures[family] = broken
        tallies[family] = tally
        print(line(family, tally), flush=True)
    return tallies


def picked(names: list[str], wanted: list[str]) -> list[str]:
    """Return the wanted cases: by the beginning of their names, or one that isn't among those chosen by itself."""
    found = [name for name in names if any(name == one or name.startswith(f"{one}/") for one in wanted)]
    begun = [one for one in wanted if not any(name == one or name.startswith(f"{one}/") for name in names)]
    return found + begun


def tell(name: str, answer: dict, verbose: bool) -> None:
    """Print a failure as it happens, or each case."""
    if answer["why"]:
        print(f"FAILED {name}: {answer['why'][:600]}", flush=True)
    elif verbose:
        print(f"ok {name} {answer['seconds']:.2f} s", flush=True)


def line(family: str, tally: Tally) -> str:
    """Return a family's line."""
    inputs = f", {tally.inputs:,} inputs" if tally.inputs else ""
    left_out = f", {tally.left_out:,} LEFT OUT for want of time" if tally.left_out else ""
    failures = f"{len(tally.failures):,} failures"
    return f"{family:10}{tally.cases:,} cases{inputs}, {failures}, {tally.seconds:.0f} s{left_out}"


def summary(tallies: dict[str, Tally], seed: int, seconds: float) -> int:
    """Print the totals and how each failure is had again."""
    print("\n".join(["", *(line(family, tally) for family, tally in tallies.items())]))
    failures = {name: why for tally in tallies.values() for name, why in tally.failures.items()}
    cases, inputs = (sum(getattr(tally, what) for tally in tallies.values()) for what in ("cases", "inputs"))
    print(f"in all: {cases:,} cases, {inputs:,} inputs, {len(failures):,} failures, {seconds:.0f} s, seed {seed}")
    for name, why in failures.items():
        print(f"\n{why[:600]}\n  python -m tests.faults --only {name} --seed {seed}")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
