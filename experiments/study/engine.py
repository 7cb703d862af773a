"""From a plan and a set to a table: each distinct training once and kept, each distinct list mined once."""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
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
from experiments.study.trial import Desk, Desks, Part, Trial
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.devices import pick_device
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.class_gallery import CLASS_MAP
from rank_xmodal.evaluation.judging import MEAN_RANK, RANKER, SHOWN
from rank_xmodal.files import held, sha256, write_text
from rank_xmodal.parallel import Executor, Serial
from rank_xmodal.retrieval.gallery import CLIP, DEPTH, has_split
from rank_xmodal.training.loop import SELECTED_BY

Say = Callable[[str], None]
Done = Callable[[Outcome], None]
_TOLD = 10  # failures that a message tells


@dataclass(frozen=True)
class Job:
    """A trial, and which rows and protocols it is for.

    Attributes
    ----------
    trial : Trial
    rows : list of (str, str)
        Row and protocol.
    told : str
        What tells the part's set from others.
    """

    trial: Trial
    rows: list[tuple[str, str]]
    told: str

    @property
    def names(self) -> str:
        """The rows' names."""
        return ", ".join(dict(self.rows))


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
    """Return a part's distinct trials, those on the same lists together."""
    found: dict[tuple[str, ...], dict[str, Job]] = defaultdict(dict)
    told = _told(desk.data)
    for direction, (name, row), protocol in itertools.product(directions, plan.trained.items(), plan.protocols):
        settings = row.settings_for(protocol, part.seed)
        one = Trial(part, direction, settings.model_dump(mode="json"), plan.split, plan.protocols, plan.cost)
        same = found[desk.request(direction, settings)]
        same.setdefault(repr(store.identity(one, "")), Job(one, [], told)).rows.append((name, protocol))
    return [job for same in found.values() for job in same.values()]


def run(
    plan: Plan, data: EmbeddingSet, directions: Sequence[Direction], out: Path, say: Say, done: Done | None = None,
    executor: Executor | None = None,
) -> list[Outcome]:  # fmt: skip
    """Return an outcome for each row, direction, protocol and repeat; what `out` keeps is not made again.

    A worker has one part's lists in memory at a time. `done` is told of each outcome. A trial that fails keeps no other
    from being made and kept.

    Raises
    ------
    UserError
        In the end, if trials failed: which, and why.
    """
    executor, desks = executor or Serial(), Desks(data)
    if executor.name != Serial.name and data.root is None:
        raise UserError(f"{data.name}: was never written, and other processes couldn't open it. Write it first.")
    parts = parts_of(plan, data, directions)
    gathered = _Gathered(plan, aligned=data.aligned)
    failed: list[str] = []
    ended, number, total = itertools.count(1), itertools.count(), 0
    doing: dict[int, Job] = {}

    def tell(job: Job, frame: pd.DataFrame, kept: str = "") -> None:
        judged = SELECTED_BY if plan.tested == TESTED else plan.tested
        value = f"{plan.split} {judged} {100 * frame[f'{RANKER}/{judged}'].mean():.2f}"
        say(f"{job.trial.direction}: {next(ended)} of {total}, {job.names}: {value}{kept}")
        for outcome in gathered.add(job, frame):
            if done:
                done(outcome)

    def to_do() -> Iterator[Trial]:
        nonlocal total
        for part in parts:
            jobs = jobs_of(plan, desks.of(part), part, directions)
            total = total or len(jobs) * len(parts)
            for job in jobs:
                frame = store.kept(out / "trials", job.trial, job.told)
                if frame is not None:
                    tell(job, frame, " (kept)")
                else:
                    doing[next(number)] = job
                    yield job.trial

    folder = str(data.root.absolute()) if data.root else ""
    open_ = functools.partial(trial.worker, executor.owned(desks, functools.partial(Desks.open, folder)))
    for finished in executor.map(open_, to_do(), gpu=True):
        job = doing.pop(finished.number)
        if finished.error is not None:
            failed.append(f"the {'point' if plan.grid else 'row'} {job.names}: {finished.error}")
            say(f"{job.trial.direction}: {next(ended)} of {total}, {job.names}: failed: {finished.error}")
            continue
        store.keep(out / "trials", job.trial, job.told, finished.result)
        tell(job, finished.result)
    if failed:
        raise UserError(_failures(failed))
    return gathered.in_order(directions)


def _failures(failed: Sequence[str]) -> str:
    """Say which trials failed, and why; not again for each fold."""
    told = list(dict.fromkeys(failed))
    if len(told) == 1:
        return told[0]
    more = [f"and {len(told) - _TOLD} more"] if len(told) > _TOLD else []
    return "\n".join([f"{len(failed)} trials failed; what the others made is kept.", *told[:_TOLD], *more])


class _Gathered:
    """Frames of trials until a repeat of a row has all of its folds."""

    def __init__(self, plan: Plan, *, aligned: bool) -> None:
        self.plan, self.aligned = plan, aligned
        self._outcomes: list[tuple[int, Outcome]] = []
        self._frames: dict[tuple[str, Direction, str, int], dict[int, pd.DataFrame]] = defaultdict(dict)

    def add(self, job: Job, frame: pd.DataFrame) -> Iterator[Outcome]:
        """Yield what the frame makes whole."""
        part, direction = job.trial.part, job.trial.direction
        for row, protocol in job.rows:
            folds = self._frames[row, direction, protocol, part.repeat]
            folds[part.fold] = frame[frame["protocol"] == protocol]
            if len(folds) == max(part.folds, 1):
                del self._frames[row, direction, protocol, part.repeat]
                whole = pd.concat([found for _, found in sorted(folds.items())])
                one = _outcome(self.plan, part, row, direction, protocol, whole, aligned=self.aligned)
                self._outcomes.append((part.repeat, one))
                yield one

    def in_order(self, directions: Sequence[Direction]) -> list[Outcome]:
        """Return all outcomes: by row, and each row's by repeat, direction and protocol, whoever ended first."""
        rows, plan = [*self.plan.trained], self.plan

        def place(repeat: int, one: Outcome) -> tuple[int, ...]:
            return rows.index(one.row), repeat, directions.index(one.direction), plan.protocols.index(one.protocol)

        return [one for _, one in sorted(self._outcomes, key=lambda both: place(*both))]


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
    plan: Plan, data: EmbeddingSet, directions: Sequence[Direction], out: Path, *, tracking: Path | None, say: Say,
    executor: Executor | None = None,
) -> Table:  # fmt: skip
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
        table = tabulate(run(plan, data, directions, out, say, executor=executor), empty, plan.beside.rows)
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
