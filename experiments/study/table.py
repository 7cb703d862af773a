"""One table of results for studies, grids, the paper's table and finished runs; `formats` writes it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from experiments.results.names import HEADINGS
from experiments.results.result import GROUP, row_label, rows_in
from rank_xmodal.data.embedding_set import DIRECTIONS, Direction
from rank_xmodal.evaluation.class_gallery import CLASS_MAP
from rank_xmodal.evaluation.judging import MEAN_RANK, RANKER, SHOWN
from rank_xmodal.evaluation.significance import holm, paired_p, standard_error
from rank_xmodal.retrieval.gallery import CLIP
from rank_xmodal.scorers.stack import COMPARED

TESTED = "R@1"
SUMMED = ("R@1", "R@5", "R@10")


@dataclass(frozen=True)
class Outcome:
    """A scorer fitted and judged beside what needs no training: a run, or one repeat of a study's row.

    `report` is as `judging.judge` returns it; `queries` holds query, and R@1 and MeanRank of each row of the report:
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


class Against(NamedTuple):
    """By how much a line is better than another, the gain's standard error, and its p-value, raw and corrected."""

    gain: float = math.nan
    error: float = math.nan
    p: float = math.nan
    holm: float = math.nan


@dataclass
class Line:
    """A row in one protocol and direction; the reports of its outcomes, one a repeat, call it `source`.

    `published` are R@1, R@5 and R@10, `facts` columns of their own.
    """

    row: str
    source: str
    outcomes: list[Outcome]
    against: dict[str, Against] = field(default_factory=dict)
    rsum: float = math.nan
    published: Sequence[float] = ()
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def of(self) -> tuple[str, Direction]:
        """Its protocol and direction."""
        return self.outcomes[0].protocol, self.outcomes[0].direction

    @property
    def queries(self) -> pd.DataFrame | None:
        """The queries of all repeats; None where an outcome has none."""
        frames = [one.queries for one in self.outcomes if one.queries is not None]
        return pd.concat(frames) if len(frames) == len(self.outcomes) else None

    def figure(self, metric: str) -> Figure:
        """Summarise a metric."""
        values = [one.report[self.source][metric] * (1 if metric == MEAN_RANK else 100) for one in self.outcomes]
        return Figure(mean(values), stdev(values) if len(values) > 1 else math.nan)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those that every outcome has."""
        return SHOWN if any(CLASS_MAP not in one.report[self.source] for one in self.outcomes) else (*SHOWN, CLASS_MAP)

    def over(self, other: Line, metric: str = TESTED, *, test: bool = True) -> Against:
        """Compare with another row; with one that isn't trained as the own reports have it, of the own query bank."""
        other = other if other.source == RANKER else replace(other, outcomes=self.outcomes)
        gain = self.figure(metric).mean - other.figure(metric).mean
        (mine, own), (theirs, name) = ((line.queries, f"{line.source}/{metric}") for line in (self, other))
        if mine is None or theirs is None:
            return Against(gain)
        one, two = mine.groupby("query")[own].mean().align(theirs.groupby("query")[name].mean(), join="inner")
        groups = None
        if GROUP in mine:
            groups = mine.groupby("query")[GROUP].first().reindex(one.index).to_numpy()
        p = paired_p(one.to_numpy(), two.to_numpy(), groups) if test else math.nan
        return Against(gain, 100 * standard_error((one - two).to_numpy(), groups), p)


@dataclass
class Table:
    """Lines, those of a protocol and direction together.

    People are shown `metrics`, of labelled sets "class MAP", too, gains in `tested` if `gains`, and the note.
    """

    title: str
    metrics: Sequence[str] = SHOWN
    against: Sequence[str] = ()
    gains: bool = True
    note: str = ""
    tested: str = TESTED
    lines: list[Line] = field(default_factory=list)

    @property
    def blocks(self) -> dict[tuple[str, Direction], list[Line]]:
        """The lines by protocol and direction."""
        return {
            of: [line for line in self.lines if line.of == of] for of in dict.fromkeys(one.of for one in self.lines)
        }

    def figures(self, protocol: str = "gallery") -> dict[str, dict[str, dict[str, Figure]]]:
        """Return direction -> row -> metric -> figure, as plots take them."""
        blocks = {way: lines for (of, way), lines in self.blocks.items() if of == protocol}
        return {way: {line.row: {m: line.figure(m) for m in SUMMED} for line in own} for way, own in blocks.items()}

    def heading(self, protocol: str, direction: str) -> str:
        """Return what stands above a block."""
        several = len({of for of, _ in self.blocks}) > 1
        return f"{self.title}{f', protocol {protocol}' if several else ''}: {HEADINGS[direction]}"

    def caption(self, protocol: str, direction: Direction) -> str:
        """Return what stands below it."""
        lines = self.blocks[protocol, direction]
        first, report = lines[0].outcomes[0], lines[0].outcomes[0].report
        lists = f"mined lists of {report['candidates']}"
        if protocol == "gallery":
            lists = _reordered(lines)
        said = ["R@K: share of queries with a relevant item in the top K (hit rate), in %."]
        said.append(f"{report['split']}: {report['queries']:,} queries, {lists}; what it lacks is a miss:")
        said.append(f"ceiling {100 * report['ceiling']:.2f}.")
        counts = sorted({len(line.outcomes) for line in lines if line.source == RANKER})
        if counts[-1] > 1:
            unit = "permutations" if first.on.startswith("permutation") else "seeds"
            said.append(f"±: standard deviation (n - 1) over {' or '.join(map(str, counts))} {unit}.")
        for line in lines:
            banks = line.source in (scorer.name for scorer in COMPARED)
            if banks and len(line.outcomes) > len({one.on for one in line.outcomes}):
                said.append(f"{line.row}: mean ± standard deviation over {len(line.outcomes)} different query banks.")
        if all(CLASS_MAP in line.metrics for line in self.lines):
            said.append(
                f"{CLASS_MAP}: mean average precision over the whole gallery, what shares a class with the query being "
                "relevant; what makes a space ranks all of it, a list goes before the first stage's order of the rest."
            )
        tests = [one for line in self.lines for one in line.against.values() if one.holm >= 0]
        if tests:
            how = ", Holm-corrected for all p of the comparison" * (len(tests) > 1)
            grouped = all(one.queries is not None and GROUP in one.queries for line in lines for one in line.outcomes)
            over = "the images, an image's captions together" if grouped else "the queries, as if all were independent"
            said.append(f"p: {self.tested} against that row, paired randomisation test over {over}{how}.")
        return " ".join([*said, self.note]).strip()


def _reordered(lines: Sequence[Line]) -> str:
    """Say what the rows of a protocol and direction put in order."""
    report = lines[0].outcomes[0].report
    gallery, length = f"a gallery of {report['gallery']:,}", report["candidates"]
    if report.get("first_stage", CLIP) == CLIP:
        return f"CLIP's top {length} of {gallery} reordered"
    return f"{gallery} ranked" if length == report["gallery"] else f"the own space's top {length:,} of {gallery}"


def lines_of(outcomes: Sequence[Outcome]) -> list[Line]:
    """Return the rows of a protocol and direction, those that aren't trained first.

    CLIP has one outcome. CSLS has as many as there are query banks: a scorer that was fitted again on validation, too,
    has a larger one, and of large sets each seed draws its own.
    """
    found: dict[str, Line] = {}
    for source in rows_in(outcomes[0].report)[:-1]:
        if not all(source in one.report for one in outcomes):
            continue  # of some runs alone
        line = found[row_label(source)] = Line(row_label(source), source, [])
        for one in outcomes:
            if not any(one.on == other.on and one.agrees(other, source) for other in line.outcomes):
                line.outcomes.append(one)
    for one in outcomes:
        found.setdefault(one.row, Line(one.row, RANKER, [])).outcomes.append(one)
    return list(found.values())


def tabulate(
    outcomes: Sequence[Outcome], table: Table, published: Mapping[str, Mapping[Direction, Any]] | None = None
) -> Table:
    """Fill an empty table, rows in the order of the outcomes.

    Every pair is tested on the lower of its two lines. All tests of a protocol, whatever the direction, row and
    opponent, are one family for Holm's correction.
    """
    for protocol in dict.fromkeys(one.protocol for one in outcomes):
        family: list[Line] = []
        for way in DIRECTIONS:
            here = [one for one in outcomes if (one.protocol, one.direction) == (protocol, way)]
            lines = lines_of(here) if here else []
            for place, line in enumerate(lines):
                others = lines[:place] if line.row in table.against else lines
                rivals = [other for other in others if other.row in table.against]
                line.against = {other.row: line.over(other, table.tested) for other in rivals}
                line.published = (published or {}).get(line.row, {}).get(way, ())
            family += lines
        tests = [(line, rival) for line in family for rival, one in line.against.items() if one.p >= 0]
        corrected = holm(np.array([line.against[rival].p for line, rival in tests]))
        for (line, rival), p in zip(tests, corrected, strict=True):
            line.against[rival] = line.against[rival]._replace(holm=float(p))
        for line in family:
            both = [other for other in family if other.row == line.row]
            if len(both) == len(DIRECTIONS):
                line.rsum = sum(other.figure(name).mean for other in both for name in SUMMED)
        table.lines += family
    return table


def shifts_of(lines: Sequence[Line]) -> dict[str, np.ndarray]:
    """Return by how many ranks each query's first relevant item rose above the first line's rank of it, by row.

    Of several repeats all queries of each are there. Rows without their queries' figures are left out.
    """
    first = f"{lines[0].source}/{MEAN_RANK}"
    of_rows = {line.row: (line.queries, f"{line.source}/{MEAN_RANK}") for line in lines[1:]}
    return {row: (q[first] - q[own]).to_numpy() for row, (q, own) in of_rows.items() if q is not None}
