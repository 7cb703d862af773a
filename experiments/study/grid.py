"""Grid search: every point judged on validation, by the epoch that its training keeps; test is never looked at."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from experiments.run.tracking import Tracker, metric_key
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
_CAPTION = (
    f"- best: {SELECTED_BY} less the best point's, ± its standard error, paired over the queries. Within one standard "
    "error a point can't be told from the best. The best of many is chosen for its luck, too: its own figure flatters it."
)


def counted(plan: Plan) -> str:
    """Return how many points there are and why: "6 points: 3 d_model x 2 heads"."""
    sizes = " x ".join(f"{len(values)} {key}" for key, values in plan.grid.items())
    return f"{len(plan.trained)} point{'s' * (len(plan.trained) > 1)}: {sizes}"


def table_of(outcomes: list[Outcome], title: str) -> Table:
    """Return a line for each point, best first; `within`, where its MRR is behind by no more than a standard error."""
    table = Table(title, metrics=JUDGED, against=("best",))
    best = None
    for one in sorted(outcomes, key=lambda one: [-one.report[RANKER][metric] for metric in JUDGED]):
        assert one.queries is not None
        values = one.queries.set_index("query")[f"{RANKER}/{SELECTED_BY}"]
        difference = 100 * (values - (values if best is None else best))
        gain, error = float(difference.mean()), float(difference.sem())
        # One query tells nothing of the error: any difference may be luck then.
        within = "1 standard error" if math.isnan(error) or -gain <= error else ""
        epoch = one.report["best_epoch"]
        facts = {"epoch": "" if math.isnan(epoch) else f"{epoch:.0f}", "within": "best" if best is None else within}
        figures = {metric: Figure(100 * one.report[RANKER][metric], math.nan) for metric in JUDGED}
        against = {} if best is None else {"best": Against(gain, error)}
        table.lines.append(Line(one.row, one.direction, one.protocol, 1, figures, one.settings, against, facts=facts))
        best = values if best is None else best
    table.captions["gallery", outcomes[0].direction] = _CAPTION
    return table


class _Runs:
    """The search as MLflow has it: a run, and one nested under it for each point. Stopped, it goes on in the same."""

    def __init__(self, plan: Plan, data: EmbeddingSet, direction: Direction, folder: Path | None, out: Path, say: Say):
        self.folder, self.data, self.direction, self.say = folder, data, direction, say
        self.settings = {name: row.settings.model_dump(mode="json") for name, row in plan.trained.items()}
        identity = [self.settings, data.fingerprint, str(folder and folder.resolve())]
        self.file = out / f"mlflow-{sha256(json.dumps(identity).encode())[:12]}.json"
        known = read_json(self.file) if self.file.is_file() else {}
        every = list(self.settings.values())
        same = {key: value for key, value in every[0].items() if all(other.get(key) == value for other in every)}
        grid = {f"grid.{key}": ", ".join(map(str, values)) for key, values in plan.grid.items()}
        self.parent = self._open(f"grid {plan.name}, {direction}", {**same, **grid}, run_id=known.get("parent"))
        self.logged = known.get("points", []) if self.parent.run_id == known.get("parent") else []

    def _open(self, name: str, settings: dict[str, Any], **more: Any) -> Tracker:
        tracker, of = Tracker(self.folder, self.say), {"direction": self.direction}
        return engine.open_run(tracker, f"grid {self.data.name}", name, settings, of, self.data, **more)

    def point(self, name: str, frame: pd.DataFrame, made: bool) -> None:
        """Log a point, unless it was kept from before and is logged already."""
        if self.parent.run_id is None or (not made and name in self.logged):
            return
        figures = {f"val/{metric_key(metric)}": float(frame[f"{RANKER}/{metric}"].mean()) for metric in JUDGED}
        figures["best_epoch"] = float(frame["best_epoch"].iloc[0])
        tracker = self._open(name, self.settings[name], parent=self.parent.run_id)
        tracker.finish({key: value for key, value in figures.items() if not math.isnan(value)})
        self.logged = [*(known for known in self.logged if known != name), name]
        write_json(self.file, {"parent": self.parent.run_id, "points": self.logged})


def search(
    plan: Plan, data: EmbeddingSet, direction: Direction, out: Path, *, tracking: Path | None, say: Say
) -> tuple[Table, Path]:
    """Judge every point; return the table, in `out` as points.csv too, and the file of the best point's settings."""
    if not plan.grid:
        raise UserError(f"{plan.name}: has no grid. Give it one, or use `rank-xmodal study`.")
    plan = plan.model_copy(update={"judge": "val", "folds": None, "seeds": 1, "protocols": ("gallery",)})
    engine.parts_of(plan, data, [direction])
    runs = _Runs(plan, data, direction, tracking, out, say)
    try:
        outcomes = engine.run(plan, data, [direction], out, say, runs.point)
    except BaseException as error:
        runs.parent.finish(status="KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    table = table_of(outcomes, f"{data.name}, {counted(plan)}; validation, %")
    best, points = out / "best.yaml", out / "points.csv"
    keys = pd.DataFrame([{key: line.settings[key] for key in plan.grid} for line in table.lines])
    first = {metric: figure.mean for metric, figure in table.lines[0].figures.items()}
    told = f"{direction}: {SELECTED_BY} {first[SELECTED_BY]:.2f} %"
    texts = {
        points: pd.concat([keys, formats.frame(table)], axis=1).to_csv(index=False, float_format="%.8g"),
        best: f"# The best of {len(plan.trained)} points on the validation split of {data.name}, {told}.\n"
        + yaml.safe_dump(table.lines[0].settings, sort_keys=False),
    }
    for path, text in texts.items():
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
    within = sum(bool(line.facts["within"]) for line in table.lines)
    final = {f"val/{metric_key(metric)}": value / 100 for metric, value in first.items()}
    runs.parent.finish({**final, "within_one_standard_error": within}, [best, points])
    return table, best
