"""Grid search: every point judged on validation, by the epoch that its training keeps; test is never looked at."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import yaml

from experiments.run.tracking import Tracker, metric_key
from experiments.study import engine, formats
from experiments.study.engine import Say
from experiments.study.plan import Plan
from experiments.study.table import Outcome, Table, lines_of
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.judging import RANKER
from rank_xmodal.files import held, sha256, write_text
from rank_xmodal.parallel import Executor
from rank_xmodal.training.loop import SELECTED_BY

JUDGED = (SELECTED_BY, "R@1")
"""Points are ordered by the first of these metrics, then by the second."""
_NOTE = (
    f"- best: {SELECTED_BY} less the best point's, ± its standard error, paired over the queries. Within one standard "
    "error a point can't be told from the best. The best of many is chosen for its luck, too: its figure flatters it."
)


def table_of(outcomes: list[Outcome], title: str) -> Table:
    """Return a line for each point, best first; `within`, where its MRR is behind by no more than a standard error."""
    lines = [line for line in lines_of(outcomes) if line.source == RANKER]
    lines.sort(key=lambda line: [-line.figure(metric).mean for metric in JUDGED])
    for line in lines:
        epoch = line.outcomes[0].report["best_epoch"]
        line.facts = {"epoch": "" if math.isnan(epoch) else f"{epoch:.0f}", "within": "best"}
        if line is not lines[0]:
            found = line.against["best"] = line.over(lines[0], SELECTED_BY, test=False)
            # One query tells nothing of the error: any difference may be luck then.
            within = math.isnan(found.error) or -found.gain <= found.error
            line.facts["within"] = "1 standard error" if within else ""
    return Table(title, JUDGED, ("best",), note=_NOTE, lines=lines)


def search(
    plan: Plan, data: EmbeddingSet, direction: Direction, out: Path, *, tracking: Path | None, say: Say,
    executor: Executor | None = None,
) -> tuple[Table, Path]:  # fmt: skip
    """Judge every point; return the table, in `out` as points.csv too, and the file of the best point's settings.

    In MLflow the search is a run, with one nested under it for each point. Stopped, it goes on in the same run.
    """
    if not plan.grid:
        raise UserError(f"{plan.name}: has no grid. Give it one, or use `rank-xmodal study`.")
    with held(out, "at this search"):
        return _search(plan, data, direction, out, tracking, say, executor)


def _search(
    plan: Plan, data: EmbeddingSet, direction: Direction, out: Path, tracking: Path | None, say: Say,
    executor: Executor | None,
) -> tuple[Table, Path]:  # fmt: skip
    plan = plan.model_copy(update={"judge": "val", "folds": None, "seeds": 1, "protocols": ("gallery",)})
    engine.parts_of(plan, data, [direction])
    settings = {name: row.settings.model_dump(mode="json") for name, row in plan.trained.items()}
    first, *others = settings.values()
    same = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    grid = {f"grid.{key}": ", ".join(map(str, values)) for key, values in plan.grid.items()}
    parent, of = Tracker(tracking, say), {"direction": direction, "dataset": data.name}
    experiment, told, dataset = f"grid {data.name}", f"grid {plan.name}, {direction}", (data.name, data.fingerprint)
    tags = {**of, "points": str(len(settings))}
    search = sha256(json.dumps([told, settings, data.fingerprint, str(out.resolve())]).encode())[:16]
    parent.start(experiment, told, {**same, **grid, **of}, tags, dataset, training=search)

    def log(outcome: Outcome) -> None:
        if parent.run_id:
            figures = {f"val/{metric_key(metric)}": outcome.report[RANKER][metric] for metric in JUDGED}
            figures["best_epoch"] = outcome.report["best_epoch"]
            point = (outcome.row, outcome.settings, of, data, figures, parent.run_id)
            engine.log_run(Tracker(tracking, say), experiment, *point)

    try:
        outcomes = engine.run(plan, data, [direction], out, say, log, executor)
    except BaseException as error:
        parent.finish(status="KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    table = table_of(outcomes, f"{data.name}, {len(settings)} points; validation, %")
    best, values = table.lines[0], {metric: table.lines[0].figure(metric).mean for metric in JUDGED}
    chosen = f"# The best of {len(settings)} points on the validation split of {data.name}, {direction}: {SELECTED_BY} "
    keys = pd.DataFrame([{key: settings[line.row][key] for key in plan.grid} for line in table.lines])
    texts = {
        "best.yaml": f"{chosen}{values[SELECTED_BY]:.2f} %.\n{yaml.safe_dump(settings[best.row], sort_keys=False)}",
        "points.csv": pd.concat([keys, formats.frame(table)], axis=1).to_csv(index=False, float_format="%.8g"),
    }
    for name, text in texts.items():
        write_text(out / name, text)
    within = {"within_one_standard_error": float(sum(bool(line.facts["within"]) for line in table.lines))}
    final = {f"val/{metric_key(metric)}": value / 100 for metric, value in values.items()}
    parent.finish({**final, **within}, [out / name for name in texts])
    return table, out / "best.yaml"
