"""From a plan and a set to a table: each distinct training once and kept, each distinct list mined once."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from experiments.run.tracking import Tracker, metric_key
from experiments.study import formats, store, trial
from experiments.study.plan import Plan
from experiments.study.table import TESTED, Line, Outcome, Table, tabulate
from experiments.study.trial import Desk, Part, Trial
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.judging import MEAN_RANK, SHOWN
from rank_xmodal.files import replacing
from rank_xmodal.retrieval.gallery import DEPTH, has_split
from rank_xmodal.training.loop import SELECTED_BY

Say = Callable[[str], None]
Done = Callable[[list[str], pd.DataFrame, bool], None]
_BY_QUERY = (TESTED, SELECTED_BY, MEAN_RANK)


def parts_of(plan: Plan, data: EmbeddingSet, directions: Sequence[Direction]) -> list[Part]:
    """Return what each row is fitted and judged on.

    Raises
    ------
    UserError
        If the set has too few images for the folds, lacks the split that is judged, or is too small for mined lists.
    """
    folder, where = str(data.root or ""), data.root or data.name
    if plan.folds:
        if plan.folds > len(data.images) // 2:
            raise UserError(f"--folds {plan.folds}: must be between 2 and {len(data.images) // 2}, half of the images.")
        return [Part(folder, way, fold, plan.folds) for way in range(plan.permutations) for fold in range(plan.folds)]
    for direction in directions:
        if not has_split(data, direction, plan.judge):
            what = "test split (test)" if plan.judge == "test" else "validation split (val)"
            raise UserError(f"{where}: has no {what} to judge by. Give it one{', or use --folds 5' * (not plan.grid)}.")
        for split in ("train", "test") if set(plan.protocols) != {"gallery"} else ():
            size = len(data.candidate_rows(direction, split))
            if size <= DEPTH:
                raise UserError(
                    f"{where}: its {split} split has {size} candidates {direction}; the recipe's lists of {DEPTH} need "
                    "more. Give the split more items."
                )
    return [Part(folder, seed) for seed in range(plan.seeds)]


def _trials(plan: Plan, desk: Desk, part: Part, directions: Sequence[Direction]) -> list[tuple[Trial, list[str]]]:
    """Return a part's distinct trials, those that ask for the same lists together, and the rows that each is for."""
    found: dict[str, tuple[Trial, list[str]]] = {}
    order: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for direction in directions:
        for name, row in plan.rows.items():
            for settings, protocols in row.trainings(plan.protocols):
                seeded = settings.model_copy(update={"seed": settings.seed + part.seed})
                one = Trial(part, direction, seeded.model_dump(mode="json"), plan.split, protocols)
                if one.key not in found:
                    order[desk.request(direction, seeded)].append(one.key)
                found.setdefault(one.key, (one, []))[1].append(name)
    return [found[key] for keys in order.values() for key in keys]


def run(
    plan: Plan, data: EmbeddingSet, directions: Sequence[Direction], out: Path, *, say: Say, done: Done | None = None
) -> list[Outcome]:
    """Make every trial that isn't kept in `out` and return an outcome for each row, direction, protocol and repeat.

    One part is worked on at a time. `done` is told the rows, the frame, and whether it was made now.

    Raises
    ------
    UserError
        As `parts_of` and the trials; names the row.
    """
    outcomes: list[Outcome] = []
    parts, frames = parts_of(plan, data, directions), defaultdict(list)
    for number, part in enumerate(parts):
        desk = Desk(part.of(data))
        trials = _trials(plan, desk, part, directions)
        for place, (one, rows) in enumerate(trials, start=1 + number * len(trials)):
            try:
                make = lambda one=one, desk=desk: trial.run(one, desk)  # noqa: E731
                frame, made = store.keep(out / "trials", one, desk.data.fingerprint, make)
            except UserError as error:
                raise UserError(f"the {'point' if plan.grid else 'row'} {rows[0]}: {error}") from error
            for row in rows:
                for protocol, own in frame.groupby("protocol", sort=False):
                    frames[row, one.direction, str(protocol)].append(own)
            value = 100 * frame[f"ranker/{SELECTED_BY}"].mean()
            say(
                f"{one.direction}: {place} of {len(trials) * len(parts)}, {', '.join(rows)}{part}: {plan.split} "
                f"{SELECTED_BY} {value:.2f}{'' if made else ' (kept)'}"
            )
            if done:
                done(rows, frame, made)
        if part.fold + 1 >= part.folds:  # the repeat is whole
            outcomes += [_outcome(plan, part, *of, pd.concat(own)) for of, own in frames.items()]
            frames.clear()
    return sorted(outcomes, key=lambda one: list(plan.rows).index(one.row))


def _outcome(plan: Plan, part: Part, row: str, direction: Direction, protocol: str, frame: pd.DataFrame) -> Outcome:
    sources = list(dict.fromkeys(name.partition("/")[0] for name in frame if "/" in name))
    gallery = int(frame["gallery"].iloc[0])
    report = {
        "split": plan.split,
        "queries": len(frame),
        "candidates": min(DEPTH, gallery),
        "gallery": gallery,
        "ceiling": float(frame["hit"].mean()),
        "rows": sources,
        "best_epoch": float(frame["best_epoch"].mean()),
        **{source: {name: float(frame[f"{source}/{name}"].mean()) for name in SHOWN} for source in sources},
    }
    queries = frame[["query", *(f"{source}/{name}" for source in sources for name in _BY_QUERY)]]
    on = f"permutation {part.repeat}" if part.folds else ""
    return Outcome(row, direction, protocol, report, queries, plan.rows[row].settings.model_dump(mode="json"), on)


def study(
    plan: Plan,
    data: EmbeddingSet,
    directions: Sequence[Direction],
    out: Path,
    *,
    tracking: Path | None = Path("mlruns"),
    say: Say = print,
    note: str = "",
) -> tuple[Table, list[Outcome]]:
    """Run a plan; return its table, in `out` as table.csv and table.md too, and what it is made from.

    Each line becomes a run in MLflow.

    Raises
    ------
    UserError
        As `run`.
    """
    outcomes = run(plan, data, directions, out, say=say)
    name = f"{plan.name} {data.name}"
    if plan.published.rows:
        note = f"{note} Published: {plan.published.note}".strip()
    empty = Table(f"{name}, {plan.how}", metrics=SHOWN[:4], against=plan.against)
    unit = "permutations" if plan.folds else "seeds"
    table = tabulate(outcomes, empty, unit=unit, published=plan.published.rows, note=note)
    for file, text in (("table.csv", formats.csv(table)), ("table.md", formats.markdown(table))):
        with replacing(out / file) as part:
            part.write_text(text, encoding="utf-8")
    for line in table.lines:
        _track(Tracker(tracking, say), name, data, line, len(plan.protocols) > 1)
    return table, outcomes


def _track(tracker: Tracker, experiment: str, data: EmbeddingSet, line: Line, several: bool) -> None:
    of = {"row": line.row, "direction": line.direction, "protocol": line.protocol, "dataset": data.name}
    tracker.start(
        experiment,
        ", ".join([line.row, *([line.protocol] if several else []), line.direction]),
        {**line.settings, **of, "repeats": line.repeats},
        {**of, **{key: str(line.settings[key]) for key in ("scorer", "loss") if key in line.settings}},
        dataset=(data.name, data.fingerprint),
    )
    figures = {metric_key(name): figure.mean for name, figure in line.figures.items()}
    figures[f"{metric_key(TESTED)}_std"] = line.figures[TESTED].sd
    for other, against in line.against.items():
        safe = re.sub(r"[^\w. -]+", "-", other)
        figures |= {f"{metric_key(TESTED)}_gain_over_{safe}": against.gain, f"p_{safe}": against.holm}
    tracker.finish({name: value for name, value in figures.items() if not math.isnan(value)})
