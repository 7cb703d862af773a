"""Grid search: every point judged on validation, by the epoch that its training keeps; test is never looked at."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from experiments.run.tracking import Tracker, metric_key
from experiments.run.versions import code_version
from experiments.study import engine, formats
from experiments.study.engine import Say
from experiments.study.plan import Plan
from experiments.study.table import Against, Figure, Line, Outcome, Table
from rank_xmodal.data.embedding_set import Direction, EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.judging import RANKER
from rank_xmodal.files import read_json, replacing, sha256, write_json
from rank_xmodal.training.loop import SELECTED_BY

JUDGED = (SELECTED_BY, "R@1")
"""Points are ordered by the first of these metrics, then by the second."""


def counted(plan: Plan) -> str:
    """Return how many points there are and why: "6 points: 3 d_model x 2 heads"."""
    sizes = " x ".join(f"{len(set(map(str, values)))} {key}" for key, values in plan.grid.items())
    return f"{len(plan.rows)} point{'s' * (len(plan.rows) > 1)}: {sizes}"


def table_of(outcomes: list[Outcome], title: str) -> Table:
    """Return a line for each point, best first.

    Against the best stand the difference in MRR and its standard error, paired over the queries; a point is `within`
    where the difference is no larger than that.
    """
    table = Table(title, metrics=JUDGED, against=("best",))
    best: Any = None
    for one in sorted(outcomes, key=lambda one: [-one.report[RANKER][metric] for metric in JUDGED]):
        assert one.queries is not None
        values = one.queries.set_index("query")[f"{RANKER}/{SELECTED_BY}"]
        figures = {metric: Figure(100 * one.report[RANKER][metric], math.nan) for metric in JUDGED}
        line = Line(one.row, one.direction, one.protocol, 1, figures, one.settings)
        line.facts = {"epoch": _whole(one.report["best_epoch"]), "within": "best"}
        if best is None:
            best = values
        else:
            difference = 100 * (values - best)
            gain, error = float(difference.mean()), float(difference.sem())
            line.against["best"] = Against(gain, error)
            # One query tells nothing of the error: any difference may be luck then.
            line.facts["within"] = "1 standard error" if math.isnan(error) or -gain <= error else ""
        table.lines.append(line)
    table.captions[table.lines[0].protocol, table.lines[0].direction] = (
        f"- best: {SELECTED_BY} less the best point's, ± its standard error, paired over the queries. Within one "
        "standard error a point can't be told from the best. The best of many is chosen for its luck, too: its own "
        "figure flatters it."
    )
    return table


def _whole(epoch: float) -> str:
    return "" if math.isnan(epoch) else f"{epoch:.0f}"


class _Runs:
    """The search as MLflow has it: a run, and one nested under it for each point. Stopped, it goes on in the same."""

    def __init__(self, plan: Plan, data: EmbeddingSet, direction: Direction, folder: Path | None, out: Path, say: Say):
        self.file, self.folder, self.data, self.say = out / "mlflow.json", folder, data, say
        self.settings = {name: row.settings.model_dump(mode="json") for name, row in plan.rows.items()}
        self.identity = {
            "search": sha256(json.dumps(self.settings).encode()),
            "fingerprint": data.fingerprint,
            "store": str(folder.resolve()) if folder else None,
        }
        known = read_json(self.file) if folder and self.file.is_file() else {}
        if any(known.get(key) != value for key, value in self.identity.items()):
            known = {}
        self.of = {"direction": direction, "dataset": data.name}
        every = list(self.settings.values())
        same = {key: value for key, value in every[0].items() if all(other.get(key) == value for other in every)}
        grid = {f"grid.{key}": ", ".join(dict.fromkeys(map(str, values))) for key, values in plan.grid.items()}
        self.parent = self._start(f"grid {plan.name}, {direction}", {**same, **grid}, run_id=known.get("parent"))
        self.logged = known.get("points", []) if self.parent.run_id == known.get("parent") else []

    def _start(self, name: str, params: dict[str, Any], **more: Any) -> Tracker:
        tracker = Tracker(self.folder, self.say)
        source = {"mlflow.source.name": "rank-xmodal grid", "mlflow.source.git.commit": code_version()}
        dataset = (self.data.name, self.data.fingerprint)
        tracker.start(f"grid {self.data.name}", name, {**params, **self.of}, {**source, **self.of}, dataset, **more)
        return tracker

    def point(self, rows: list[str], frame: pd.DataFrame, made: bool) -> None:
        """Log a point, unless it was kept from before and is logged already."""
        name = rows[0]
        if self.parent.run_id is None or (not made and name in self.logged):
            return
        figures = {f"val/{metric_key(metric)}": float(frame[f"{RANKER}/{metric}"].mean()) for metric in JUDGED}
        epoch = float(frame["best_epoch"].iloc[0])
        tracker = self._start(name, self.settings[name], parent=self.parent.run_id)
        tracker.finish(figures if math.isnan(epoch) else {**figures, "best_epoch": epoch})
        self.logged = [*(known for known in self.logged if known != name), name]
        write_json(self.file, {**self.identity, "parent": self.parent.run_id, "points": self.logged})


def search(
    plan: Plan, data: EmbeddingSet, direction: Direction, out: Path, *, tracking: Path | None, say: Say = print
) -> tuple[Table, Path]:
    """Judge every point; return the table, in `out` as points.csv too, and the file of the best point's settings.

    Raises
    ------
    UserError
        If the plan has no grid, the set has no validation split, or as the trials.
    """
    if not plan.grid:
        raise UserError(f"{plan.name}: has no grid. Give it one, or use `rank-xmodal study`.")
    plan = plan.model_copy(update={"judge": "val", "folds": None, "seeds": 1, "protocols": ("gallery",)})
    engine.parts_of(plan, data, [direction])
    runs = _Runs(plan, data, direction, tracking, out, say)
    try:
        outcomes = engine.run(plan, data, [direction], out, say=say, done=runs.point)
        table = table_of(outcomes, f"{data.name}, {counted(plan)}; validation, %")
        frame, first = formats.frame(table), table.lines[0]
        keys = pd.DataFrame([{key: line.settings[key] for key in plan.grid} for line in table.lines])
        with replacing(out / "points.csv") as part:
            pd.concat([keys, frame], axis=1).to_csv(part, index=False, float_format="%.8g")
        with replacing(out / "best.yaml") as part:
            part.write_text(
                f"# The best of {len(plan.rows)} points on the validation split of {data.name}, {direction}: "
                f"{SELECTED_BY} {first.figures[SELECTED_BY].mean:.2f} %.\n{yaml.safe_dump(first.settings, sort_keys=False)}",
                encoding="utf-8",
            )
    except BaseException as error:
        runs.parent.finish(status="KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    best = {f"val/{metric_key(metric)}": figure.mean / 100 for metric, figure in first.figures.items()}
    within = sum(bool(line.facts["within"]) for line in table.lines)
    runs.parent.finish({**best, "within_one_standard_error": within}, [out / "best.yaml", out / "points.csv"])
    return table, out / "best.yaml"
