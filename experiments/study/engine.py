"""From a plan and a set to a table: each distinct training once and kept, each distinct list mined once."""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.report.plots import plot_cost
from experiments.results.result import GROUP
from experiments.run.tracking import Tracker, metric_key
from experiments.study import formats, store, trial
from experiments.study.cost import FIRST_FEW, Cost, cross_encoder_milliseconds
from experiments.study.fitting import fitted_to, needs_of
from experiments.study.plan import Plan
from experiments.study.table import TESTED, Outcome, Table, tabulate
from experiments.study.trial import Desk, Part, Trial
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.devices import pick_device
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.class_gallery import CLASS_MAP
from rank_xmodal.evaluation.judging import MEAN_RANK, RANKER, SHOWN
from rank_xmodal.files import held, sha256, write_text
from rank_xmodal.retrieval.gallery import CLIP, DEPTH, has_split
from rank_xmodal.training.loop import SELECTED_BY

Say = Callable[[str], None]
Done = Callable[[Outcome], None]
Job = tuple[Trial, list[tuple[str, str]]]


def parts_of(plan: Plan, data: EmbeddingSet, directions: Sequence[Direction]) -> list[Part]:
    """Return what each row is fitted and judged on; a UserError says what the set lacks for it."""
    where, most = str(data.root or data.name), len(data.images) // 2
    if plan.tested == CLASS_MAP and not data.labelled:
        raise UserError(f"{where}: has no classes, and the plan tests by {CLASS_MAP}. Give it some, or test by R@1.")
    if not data.aligned and set(plan.protocols) != {"gallery"}:
        mined = ", ".join(protocol for protocol in plan.protocols if protocol != "gallery")
        said = f"{where}: its images and texts lie in no common space, where lists could be mined for"
        raise UserError(f"{said} {mined}. Use a plan whose protocol is gallery.")
    if plan.folds:
        if plan.folds > most:
            raise UserError(f"--folds {plan.folds}: must be between 2 and {most}, half of the images.")
        return [Part(where, way, fold, plan.folds) for way in range(plan.permutations) for fold in range(plan.folds)]
    for direction in directions:
        if not has_split(data, direction, plan.judge):
            other = "" if plan.grid else ", or use --folds 5"
            raise UserError(f"{where}: has no split {plan.judge} to judge by. Give it one{other}.")
        for split in ("train", "test") if set(plan.protocols) != {"gallery"} else ():
            if (size := len(data.candidate_rows(direction, split))) <= DEPTH:
                what = f"its {split} split has {size} candidates {direction}; the recipe's lists of {DEPTH} need more"
                raise UserError(f"{where}: {what}. Give the split more items.")
    return [Part(where, seed) for seed in range(plan.seeds)]


def jobs_of(plan: Plan, desk: Desk, part: Part, directions: Sequence[Direction]) -> list[Job]:
    """Return a part's distinct trials, those on the same lists together, and which rows and protocols each is for."""
    found: dict[tuple[str, ...], dict[str, Job]] = defaultdict(dict)
    for direction, (name, row), protocol in itertools.product(directions, plan.trained.items(), plan.protocols):
        settings = row.settings_for(protocol, part.seed)
        one = Trial(part, direction, settings.model_dump(mode="json"), plan.split, plan.protocols, plan.cost)
        same = found[desk.request(direction, settings)]
        same.setdefault(repr(store.identity(one, "")), (one, []))[1].append((name, protocol))
    return [job for same in found.values() for job in same.values()]


def run(
    plan: Plan, data: EmbeddingSet, directions: Sequence[Direction], out: Path, say: Say, done: Done | None = None
) -> list[Outcome]:
    """Return an outcome for each row, direction, protocol and repeat; what `out` keeps is not made again.

    One part is worked on at a time: only its lists are in memory. `done` is told of each outcome.
    """
    outcomes: list[Outcome] = []
    frames: dict[tuple[str, Direction, str], list[pd.DataFrame]] = defaultdict(list)
    for number, part in enumerate(parts := parts_of(plan, data, directions)):
        desk = Desk(part.of(data))
        jobs = jobs_of(plan, desk, part, directions)
        for place, (one, rows) in enumerate(jobs, start=1 + number * len(jobs)):
            names, make = ", ".join(dict(rows)), functools.partial(trial.run, one, desk)
            try:
                frame, made = store.keep(out / "trials", one, _told(desk.data), make)
            except UserError as error:
                raise UserError(f"the {'point' if plan.grid else 'row'} {names}: {error}") from error
            judged = SELECTED_BY if plan.tested == TESTED else plan.tested
            value = f"{plan.split} {judged} {100 * frame[f'{RANKER}/{judged}'].mean():.2f}"
            said = f"{one.direction}: {place} of {len(jobs) * len(parts)}, {names}: {value}"
            say(said if made else f"{said} (kept)")
            for name, protocol in rows:
                of = (name, one.direction, protocol)
                frames[of].append(frame[frame["protocol"] == protocol])
                if part.fold + 1 >= part.folds:  # the repeat is whole
                    outcomes.append(_outcome(plan, part, *of, pd.concat(frames.pop(of)), aligned=data.aligned))
                    if done:
                        done(outcomes[-1])
    return sorted(outcomes, key=lambda one: [*plan.trained].index(one.row))


def _told(data: EmbeddingSet) -> str:
    """Return what tells a set from others, its tokens and classes included."""
    tokens = data.whole.meta.get("tokens") or {}
    told = [data.fingerprint, *([tokens["fingerprint"]] if "fingerprint" in tokens else [])]
    return " ".join([*told, data.labels_fingerprint] if data.labelled else told)


def _outcome(
    plan: Plan, part: Part, row: str, direction: Direction, protocol: str, frame: pd.DataFrame, *, aligned: bool
) -> Outcome:
    sources = list(dict.fromkeys(str(name).partition("/")[0] for name in frame if "/" in str(name)))
    gallery = int(frame["gallery"].iloc[0])
    by_class = f"{RANKER}/{CLASS_MAP}" in frame and frame[f"{RANKER}/{CLASS_MAP}"].notna().all()
    metrics = (*SHOWN, CLASS_MAP) if by_class else SHOWN
    report = {
        "split": plan.split,
        "queries": len(frame),
        "candidates": int(frame["length"].iloc[0]),
        "gallery": gallery,
        "ceiling": float(frame["hit"].mean()),
        "first_stage": CLIP if aligned else "own",
        "rows": sources,
        **{source: {name: float(frame[f"{source}/{name}"].mean()) for name in metrics} for source in sources},
        "best_epoch": float(frame["best_epoch"].mean()),
        **{field.name: float(frame[field.name].mean()) for field in fields(Cost) if plan.cost},
    }
    on = f"permutation {part.repeat}" if part.folds else ""
    queries = frame[
        [str(name) for name in frame if str(name).endswith(("query", GROUP, TESTED, CLASS_MAP, SELECTED_BY, MEAN_RANK))]
    ]
    return Outcome(row, direction, protocol, report, queries, plan.trained[row].settings.model_dump(mode="json"), on)


def study(
    plan: Plan, data: EmbeddingSet, directions: Sequence[Direction], out: Path, *, tracking: Path | None, say: Say
) -> Table:
    """Run a plan and return its table, in `out` as CSV and Markdown, each line a run in MLflow."""
    plan = fitted_to(plan, data) if plan.fitting else plan
    name = f"{plan.name} {data.name}"
    how = f"{plan.seeds} seed{'s' * (plan.seeds > 1)}, {'validation' if plan.judge == 'val' else 'test'} split"
    if plan.folds:
        how = f"{plan.folds} folds of {plan.permutations} permutations"
    note = f"{plan.note} Published: {plan.beside.note}".strip() if plan.published else plan.note
    # With needs and costs beside them, R@1 and R@10 are all that there is room for.
    metrics = (TESTED, "R@10") if plan.fitting else SHOWN[:4]
    empty = Table(f"{name}, {how}", metrics, plan.against or (), not plan.fitting, note, plan.tested)
    with held(out, "at this study"):
        table = tabulate(run(plan, data, directions, out, say), empty, plan.beside.rows)
        if plan.cost:
            table.note = f"{table.note} {_cross_encoder()}".strip()
            _add_costs(table, out)
        _add_words(table, plan)
        for file, text in (("table.csv", formats.csv(table)), ("table.md", formats.markdown(table))):
            write_text(out / file, text)
        for line in table.lines:
            protocol, direction = line.of
            label = [line.row, *([protocol] if len(plan.protocols) > 1 else []), direction]
            settings = plan.trained[line.row].settings.model_dump(mode="json") if line.row in plan.trained else {}
            of = {"row": line.row, "protocol": protocol, "direction": direction}
            figures = {metric_key(metric): line.figure(metric).mean for metric in line.metrics}
            figures["R1_std"] = line.figure(TESTED).sd
            for other, against in line.against.items():
                safe = re.sub(r"[^\w. -]+", "-", other)  # what MLflow allows
                figures |= {f"{metric_key(table.tested)}_gain_over_{safe}": against.gain, f"p_{safe}": against.holm}
            log_run(Tracker(tracking, say), name, ", ".join(label), settings, of, data, figures)
    return table


def _cross_encoder() -> str:
    """Say what a pretrained cross-encoder costs, which is no row: without its weights it can't be judged."""
    device = pick_device("auto")
    try:
        milliseconds = cross_encoder_milliseconds(device)
    except ImportError as error:
        return f"A cross-encoder was not timed ({error}). Install the extra blip."
    except RuntimeError as error:  # a device without the room for it ends no finished study
        return f"A cross-encoder was not timed ({str(error).splitlines()[0]})."
    return (
        f"For comparison, timed with random weights and not judged: a cross-encoder of the size of BLIP base takes "
        f"{milliseconds:,.0f} ms a query for the first {FIRST_FEW} candidates ({device})."
    )


def _add_costs(table: Table, out: Path) -> None:
    """Write each row's costs into the table, and R@1 against milliseconds as a picture beside it."""
    points: dict[Direction, dict[str, tuple[float, float]]] = defaultdict(dict)
    for line in table.lines:
        if line.source == RANKER:
            reports = [one.report for one in line.outcomes]
            cost = Cost(*(statistics.fmean(report[field.name] for report in reports) for field in fields(Cost)))
            line.facts = cost.facts()
            points[line.of[1]][line.row] = (cost.milliseconds, line.figure(table.tested).mean)
    plot_cost(points, table.title, out / "cost.png", table.tested)


def _add_words(table: Table, plan: Plan) -> None:
    """Write what each row needs, and what was published of it on other features, into the table."""
    for line in table.lines:
        if plan.fitting:
            needs = needs_of(plan.trained[line.row].settings) if line.row in plan.trained else ""
            line.facts = {"needs": needs, **line.facts}
        if plan.beside.elsewhere:
            line.facts["published, other features"] = plan.beside.elsewhere.get(line.row, "")


def log_run(
    tracker: Tracker, experiment: str, name: str, settings: dict[str, Any], of: dict[str, str], data: EmbeddingSet,
    figures: dict[str, float], parent: str | None = None,
) -> None:  # fmt: skip
    """Log an MLflow run of a study; `of` are tags and parameters, both, and a figure that is NaN is left out.

    One that a study logged before, or was stopped at, is not logged twice.
    """
    figures = {key: value for key, value in figures.items() if not math.isnan(value)}
    this = sha256(json.dumps([name, settings, of, data.fingerprint, figures, parent], sort_keys=True).encode())[:16]
    of = {**of, "dataset": data.name, "loss": str(settings.get("loss", ""))}
    tags = {**of, "mlflow.source.name": "rank-xmodal"}
    tracker.start(experiment, name, {**settings, **of}, tags, (data.name, data.fingerprint), this, parent)
    tracker.finish(figures)
