"""One table of results for studies, grids, the paper's table and finished runs; `formats` writes it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from experiments.results.names import HEADINGS
from experiments.results.result import row_label, rows_in
from rank_xmodal.data.embedding_set import DIRECTIONS, Direction
from rank_xmodal.evaluation.judging import MEAN_RANK, RANKER, SHOWN
from rank_xmodal.evaluation.significance import holm, paired_p

TESTED = "R@1"
SUMMED = ("R@1", "R@5", "R@10")


@dataclass(frozen=True)
class Outcome:
    """A scorer fitted and judged beside what needs no training: a run, or one repeat of a study's row.

    `report` is as `judging.judge` returns it. `queries` holds query, and R@1 and MeanRank of each row of the report:
    "ranker/R@1". `on` says which queries these are: of outcomes on the same, CLIP and CSLS count once for each query
    bank. `name` is what errors call it.
    """

    row: str
    direction: Direction
    protocol: str
    report: dict[str, Any]
    queries: pd.DataFrame | None
    settings: dict[str, Any]
    on: str = ""
    name: str = ""

    def agrees(self, other: Outcome, source: str) -> bool:
        """Say whether a row of the report has the same figures in both."""
        own, others = self.report[source], other.report[source]
        return all(math.isclose(own[name], others[name], rel_tol=1e-9) for name in SHOWN)


class Figure(NamedTuple):
    """Mean and standard deviation over repeats, NaN of a single one; in %, but for mean ranks."""

    mean: float
    sd: float


@dataclass
class Against:
    """By how much a line is better than another; the gain's standard error, or its p-value, raw and corrected."""

    gain: float
    error: float = math.nan
    p: float = math.nan
    holm: float = math.nan


@dataclass
class Line:
    """A row in one protocol and direction; `published` are R@1, R@5 and R@10, `facts` columns of their own."""

    row: str
    direction: Direction
    protocol: str
    repeats: int
    figures: dict[str, Figure]
    settings: dict[str, Any]
    against: dict[str, Against] = field(default_factory=dict)
    rsum: float = math.nan
    published: Sequence[float] = ()
    facts: dict[str, str] = field(default_factory=dict)


@dataclass
class Table:
    """Lines, and what is said of each protocol and direction. People are shown `metrics`, and gains if `gains`."""

    title: str
    metrics: Sequence[str] = SHOWN
    against: Sequence[str] = ()
    gains: bool = True
    lines: list[Line] = field(default_factory=list)
    captions: dict[tuple[str, Direction], str] = field(default_factory=dict)
    ceilings: dict[tuple[str, Direction], float] = field(default_factory=dict)

    def block(self, protocol: str, direction: str) -> list[Line]:
        """Return the lines of a protocol and direction."""
        return [line for line in self.lines if (line.protocol, line.direction) == (protocol, direction)]

    def figures(self, protocol: str) -> dict[str, dict[str, dict[str, Figure]]]:
        """Return direction -> row -> metric -> figure, as plots take them."""
        ways = [way for of, way in self.captions if of == protocol]
        return {way: {line.row: line.figures for line in self.block(protocol, way)} for way in ways}

    def heading(self, protocol: str, direction: str) -> str:
        """Return what stands above them."""
        several = len({of for of, _ in self.captions}) > 1
        return f"{self.title}{f', protocol {protocol}' if several else ''}: {HEADINGS[direction]}"


class Group(NamedTuple):
    """The outcomes of a row, and what their reports call it."""

    source: str
    outcomes: list[Outcome]

    def figure(self, metric: str) -> Figure:
        """Summarise a metric."""
        values = [one.report[self.source][metric] * (1 if metric == MEAN_RANK else 100) for one in self.outcomes]
        return Figure(mean(values), stdev(values) if len(values) > 1 else math.nan)

    def by_query(self) -> pd.Series | None:
        """Return each query's R@1, meaned over repeats; None where an outcome has no queries."""
        frames = [one.queries for one in self.outcomes if one.queries is not None]
        whole = len(frames) == len(self.outcomes)
        return pd.concat(frames).groupby("query")[f"{self.source}/{TESTED}"].mean() if whole else None

    def against(self, other: Group) -> Against:
        """Compare with another row; with one that isn't trained as the own reports have it, of the own query bank."""
        rival = other if other.source == RANKER else Group(other.source, self.outcomes)
        gain, mine, others = self.figure(TESTED).mean - rival.figure(TESTED).mean, self.by_query(), rival.by_query()
        if mine is None or others is None:
            return Against(gain)
        return Against(gain, p=paired_p(*(side.to_numpy() for side in mine.align(others, join="inner"))))


def groups_of(outcomes: Sequence[Outcome], protocol: str, direction: str) -> dict[str, Group]:
    """Return the rows of a protocol and direction, those that aren't trained first.

    CLIP has one outcome. CSLS has as many as there are query banks: a scorer that was fitted again on validation, too,
    has a larger one, and of large sets each seed draws its own.
    """
    here = [one for one in outcomes if (one.protocol, one.direction) == (protocol, direction)]
    found: dict[str, Group] = {}
    for source in rows_in(here[0].report)[:-1] if here else ():
        distinct = found[row_label(source)] = Group(source, [])
        for one in here:
            if not any(one.on == other.on and one.agrees(other, source) for other in distinct.outcomes):
                distinct.outcomes.append(one)
    for one in here:
        found.setdefault(one.row, Group(RANKER, [])).outcomes.append(one)
    return found


def tabulate(
    outcomes: Sequence[Outcome],
    table: Table,
    published: Mapping[str, Mapping[Direction, Sequence[float]]] | None = None,
    note: str = "",
) -> Table:
    """Fill an empty table, rows in the order of the outcomes; the note ends each caption.

    Every pair is tested on the lower of its two lines. All tests of a protocol, whatever the direction, row and
    opponent, are one family for Holm's correction.
    """
    for protocol in dict.fromkeys(one.protocol for one in outcomes):
        blocks = {way: found for way in DIRECTIONS if (found := groups_of(outcomes, protocol, way))}
        lines: dict[tuple[str, Direction], Line] = {}
        for way, groups in blocks.items():
            for place, (row, group) in enumerate(groups.items()):
                figures = {name: group.figure(name) for name in SHOWN}
                settings = group.outcomes[0].settings if group.source == RANKER else {}
                line = lines[row, way] = Line(row, way, protocol, len(group.outcomes), figures, settings)
                line.published = (published or {}).get(row, {}).get(way, ())
                above = [other for other in table.against if row not in table.against or other in [*groups][:place]]
                line.against = {other: group.against(groups[other]) for other in above if other != row}
        tests = [one for line in lines.values() for one in line.against.values() if not math.isnan(one.p)]
        for one, corrected in zip(tests, holm(np.array([one.p for one in tests])), strict=True):
            one.holm = float(corrected)
        for (row, _), line in lines.items():
            if all((row, way) in lines for way in DIRECTIONS):
                line.rsum = sum(lines[row, way].figures[name].mean for way in DIRECTIONS for name in SUMMED)
        table.lines += lines.values()
        for way, groups in blocks.items():
            table.captions[protocol, way] = f"{_caption(protocol, groups, len(tests))} {note}".strip()
            table.ceilings[protocol, way] = 100 * next(iter(groups.values())).outcomes[0].report["ceiling"]
    return table


def _caption(protocol: str, groups: dict[str, Group], tests: int) -> str:
    first = next(iter(groups.values())).outcomes[0]
    report, counts = first.report, sorted({len(group.outcomes) for group in groups.values() if group.source == RANKER})
    lists = f"mined lists of {report['candidates']}"
    if protocol == "gallery":
        lists = f"CLIP's top {report['candidates']} of a gallery of {report['gallery']:,} reordered"
    said = [
        "R@K: share of queries with a relevant item in the top K (hit rate), in %.",
        f"{report['split']}: {report['queries']:,} queries, {lists}; what it lacks is a miss:",
        f"ceiling {100 * report['ceiling']:.2f}.",
    ]
    if counts[-1] > 1:
        unit = "permutations" if first.on.startswith("permutation") else "seeds"
        said.append(f"±: standard deviation (n - 1) over {' or '.join(map(str, counts))} {unit}.")
    for label, group in groups.items():
        if group.source != RANKER and len(group.outcomes) > len({one.on for one in group.outcomes}):
            said.append(f"{label}: mean ± standard deviation over {len(group.outcomes)} different query banks.")
    if tests:
        how = ", Holm-corrected for all p of the comparison" * (tests > 1)
        said.append(f"p: {TESTED} against that row, paired randomisation test over the queries{how}.")
    return " ".join(said)


def shifts_of(outcomes: Sequence[Outcome], protocol: str) -> dict[str, dict[str, np.ndarray]]:
    """Return direction -> row -> by how many ranks each query's first relevant item rose above CLIP's rank of it.

    Of several repeats all queries of each are there. Rows without their queries' figures are left out.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for way in DIRECTIONS:
        for row, (source, group) in [*groups_of(outcomes, protocol, way).items()][1:]:
            frames = [one.queries for one in group if one.queries is not None]
            if len(frames) == len(group):
                gained = [frame[f"clip/{MEAN_RANK}"] - frame[f"{source}/{MEAN_RANK}"] for frame in frames]
                found.setdefault(way, {})[row] = np.concatenate(gained)
    return found
