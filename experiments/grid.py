"""Grid search: ``python -m experiments.grid experiments/grid.yaml --data DATA --direction t2i``.

Every combination of the YAML file's `grid` over its `settings` is trained on train and judged on validation, by the
epoch that training keeps; the test split is never looked at. What is finished is kept in --out: a search that was
stopped goes on. The settings of the best point are written there as YAML, for ``rank-xmodal train --config``. In MLflow
the search is a run, and each point a run nested under it.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import itertools
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rich.console import Console
from rich.table import Table

from data_prep.mining.miner import mine
from experiments.kept import as_frame, keep
from experiments.lists import pool_size
from experiments.train import code_version
from rank_xmodal import settings
from rank_xmodal.candidate_lists import CandidateLists
from rank_xmodal.embedding_set import DIRECTIONS, Direction, EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation import FirstStage, evaluate, first_stage
from rank_xmodal.files import read_json, replacing, write_json
from rank_xmodal.query_bank import neighbours
from rank_xmodal.ranker_folder import pick_device
from rank_xmodal.settings import Settings
from rank_xmodal.tracking import Tracker, metric_key
from rank_xmodal.training import SELECTED_BY, train

JUDGED = (SELECTED_BY, "R@1")
"""Points are ordered by the first of these metrics, then by the second."""

_KEYS = ("settings", "grid")


@dataclass(frozen=True)
class Point:
    """One combination: the values of the grid's keys, and the settings that they make."""

    values: dict[str, Any]
    plan: Settings

    @property
    def label(self) -> str:
        """What errors and MLflow call it: "d_model=64 heads=4"."""
        return _label(self.values)

    @property
    def digest(self) -> str:
        """What files call it."""
        return _digest(self.plan.model_dump(mode="json"))


@dataclass(frozen=True)
class Judged:
    """A point with its validation: a row for each query with query and ranker/MRR, ranker/R@1 ...; and its epoch."""

    point: Point
    frame: pd.DataFrame

    def mean(self, metric: str) -> float:
        """Return the mean of a metric over the queries."""
        return float(self.frame[f"ranker/{metric}"].mean())

    @property
    def epoch(self) -> int:
        """The epoch that training kept."""
        return int(self.frame["best_epoch"].iloc[0])


def _label(values: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in values.items())


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def read_points(path: Path, assignments: list[str]) -> list[Point]:
    """Read a search's YAML file and return the points of its grid, the last key changing fastest.

    Parameters
    ----------
    path : Path
        Holds `grid`, key: list of values, and perhaps `settings`, key: value.
    assignments : list of str
        key=value for all points; they go before `settings`.

    Raises
    ------
    UserError
        If the file is no such mapping, a key is unknown, a list is empty or no list, two points are the same, or a
        point's settings don't fit together.
    """
    try:
        plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read ({' '.join(str(error).split())}).") from error
    if not isinstance(plan, dict):
        raise UserError(f"{path}: must hold the keys {' and '.join(_KEYS)}, found a {type(plan).__name__}.")
    for key in plan:
        _known(path, "", key, _KEYS)
    fixed, grid = plan.get("settings") or {}, plan.get("grid")
    if not isinstance(fixed, dict):
        raise UserError(f"{path}: settings: must hold `key: value` lines, found {fixed!r}.")
    if not isinstance(grid, dict) or not grid:
        raise UserError(f"{path}: grid: must hold `key: [value, value]` lines, found {grid!r}.")
    for key in fixed:
        _known(path, "settings: ", key, Settings.model_fields)
    assigned = {assignment.partition("=")[0].strip().split(".")[0] for assignment in assignments}
    for key, values in grid.items():
        _known(path, "grid: ", key, Settings.model_fields)
        if not isinstance(values, list):
            raise UserError(f"{path}: grid: {key}: {values!r} is no list. Write [{values}], or move it to settings.")
        if not values:
            raise UserError(f"{path}: grid: {key}: the list is empty. Name at least one value, or delete the key.")
        for where in ("settings", "--set"):
            if key in (fixed if where == "settings" else assigned):
                raise UserError(f"{path}: grid: {key}: stands in {where}, too. Keep it in one of them.")
    common = {key: value for key, value in fixed.items() if key not in assigned}
    points: list[Point] = []
    for values in itertools.product(*grid.values()):
        own = dict(zip(grid, values, strict=True))
        try:
            point = Point(own, settings.read(None, assignments, {**common, **own}))
        except UserError as error:
            raise UserError(f"{path}: the point {_label(own)}: {str(error).removeprefix('settings: ')}") from error
        same = next((other for other in points if other.plan == point.plan), None)
        if same is not None:
            raise UserError(f"{path}: the point {point.label} is the same as {same.label}. Name each value once.")
        points.append(point)
    return points


def _known(path: Path, where: str, key: Any, known: Any) -> None:
    if key not in known:
        near = difflib.get_close_matches(str(key), list(known), n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{path}: {where}unknown key {key!r}.{hint} Known are {', '.join(known)}.")


def _counted(points: list[Point]) -> str:
    """Return how many points there are and why: "6 points: 3 d_model x 2 heads"."""
    sizes = [
        f"{len({repr(point.values[key]) for point in points})} {key}" for key in (points[0].values if points else {})
    ]
    return f"{len(points)} point{'s' if len(points) > 1 else ''}: {' x '.join(sizes)}"


class _Lists:
    """The training lists of the points: mined again only where a point asks for others than the one before."""

    def __init__(self, data: EmbeddingSet, direction: Direction) -> None:
        self.data, self.direction = data, direction
        self._of: tuple[Any, ...] | None = None
        self._lists: CandidateLists | None = None

    def get(self, plan: Settings) -> CandidateLists:
        pool = pool_size(self.data, self.direction, plan)
        of = (plan.negatives, pool, plan.lists, plan.seed)
        if self._lists is None or self._of != of:
            self._lists = mine(
                self.data, self.direction, negatives=plan.negatives, pool=pool, protocol=plan.lists, seed=plan.seed
            )
            self._of = of
        return self._lists


def judge(
    data: EmbeddingSet, direction: Direction, point: Point, stage: FirstStage, lists: Callable[[], CandidateLists]
) -> pd.DataFrame:
    """Train a point and return each validation query's metrics, with the epoch that was kept."""
    trained = train(data, lists(), point.plan, validation=stage)
    near = neighbours(data.candidates(direction), trained.bank)
    _, values = evaluate(trained.model, data, stage, near, pick_device(point.plan.device))
    return as_frame(stage.lists.query, values).assign(best_epoch=trained.best_epoch)


def as_table(judged: list[Judged]) -> pd.DataFrame:
    """Return a line for each point, best first, in %.

    Returns
    -------
    DataFrame
        The grid's keys; MRR and R@1; `epoch`, the one kept; `behind`, MRR less the best point's; `±`, the standard
        error of that difference, paired over the queries; and `within`, whether it is no larger than that.
    """
    order = sorted(judged, key=lambda one: tuple(-one.mean(metric) for metric in JUDGED))
    best = order[0].frame.set_index("query")[f"ranker/{SELECTED_BY}"]
    lines = []
    for one in order:
        difference = one.frame.set_index("query")[f"ranker/{SELECTED_BY}"] - best
        error = float(difference.std(ddof=1)) / math.sqrt(len(difference)) if len(difference) > 1 else math.nan
        behind = float(difference.mean())
        keys: dict[str, Any] = {key: str(value) for key, value in one.point.values.items()}
        lines.append(
            {
                **keys,
                **{metric: 100 * one.mean(metric) for metric in JUDGED},
                "epoch": one.epoch,
                "behind": 100 * behind,
                "±": 100 * error,
                # One query tells nothing of the error: any difference may be luck then.
                "within": math.isnan(error) or -behind <= error,
            }
        )
    return pd.DataFrame(lines)


class _Runs:
    """The search as MLflow has it: a run, and one nested under it for each point. Stopped, it goes on in the same."""

    def __init__(
        self, folder: Path | None, data: EmbeddingSet, direction: Direction, points: list[Point], file: Path, name: str
    ) -> None:
        self.folder, self.data, self.direction, self.file = folder, data, direction, file
        self.experiment = f"grid {data.name}"
        self.identity = {
            "search": _digest([point.digest for point in points]),
            "fingerprint": data.fingerprint,
            "store": str(folder.resolve()) if folder else None,
        }
        known = read_json(file) if folder and file.is_file() else {}
        if {key: known.get(key) for key in self.identity} != self.identity:
            known = {}
        self.parent = self._tracker()
        grid = {key: list(dict.fromkeys(str(point.values[key]) for point in points)) for key in points[0].values}
        same = {
            key: value
            for key, value in points[0].plan.model_dump(mode="json").items()
            if key not in grid and all(point.plan.model_dump(mode="json")[key] == value for point in points)
        }
        self.parent.start(
            self.experiment,
            f"grid {name}, {direction}",
            {**same, **{f"grid.{key}": ", ".join(values) for key, values in grid.items()}, **self._common()},
            {**self._tags(), "points": str(len(points))},
            dataset=(data.name, data.fingerprint),
            run_id=known.get("parent"),
        )
        self.logged: list[str] = known.get("points", []) if self.parent.run_id == known.get("parent") else []

    def _tracker(self) -> Tracker:
        return Tracker(self.folder, say=lambda text: print(text, file=sys.stderr))

    def _common(self) -> dict[str, Any]:
        return {"direction": self.direction, "dataset": self.data.name}

    def _tags(self) -> dict[str, str]:
        return {
            **self._common(),
            "mlflow.source.name": "experiments.grid",
            "mlflow.source.git.commit": code_version(),
        }

    def point(self, one: Judged, made: bool) -> None:
        """Log a point, unless it was kept from before and is logged already."""
        if self.parent.run_id is None or (not made and one.point.digest in self.logged):
            return
        tracker = self._tracker()
        tracker.start(
            self.experiment,
            one.point.label,
            {**one.point.plan.model_dump(mode="json"), **self._common()},
            {**self._tags(), "loss": one.point.plan.loss},
            dataset=(self.data.name, self.data.fingerprint),
            parent=self.parent.run_id,
        )
        tracker.finish({**_val(one), "best_epoch": one.epoch})
        self.logged = [*(known for known in self.logged if known != one.point.digest), one.point.digest]
        write_json(self.file, {**self.identity, "parent": self.parent.run_id, "points": self.logged})


def _val(one: Judged) -> dict[str, float]:
    return {f"val/{metric_key(metric)}": one.mean(metric) for metric in JUDGED}


def run(
    data: EmbeddingSet,
    direction: Direction,
    points: list[Point],
    out: Path,
    *,
    tracking: Path | None = Path("mlruns"),
    name: str = "search",
) -> tuple[pd.DataFrame, Path]:
    """Judge every point; return the table, in `out` as CSV too, and the file of the best point's settings.

    Raises
    ------
    UserError
        If the set has no validation split, or as mining and training.
    """
    if not (data.images["split"] == "val").any() or not len(data.query_rows(direction, "val")):
        raise UserError(
            f"{data.root or data.name}: has no validation split (val) to judge by, and the test split is not for "
            "choosing. Give the set one."
        )
    stage = first_stage(data, direction, "val")
    lists = _Lists(data, direction)
    folder = out / direction
    runs = _Runs(tracking, data, direction, points, folder / "mlflow.json", name)
    judged: list[Judged] = []
    try:
        for place, point in enumerate(points):
            made = False

            def make(point: Point = point) -> pd.DataFrame:
                nonlocal made
                made = True
                return judge(data, direction, point, stage, lambda: lists.get(point.plan))

            identity = {
                "settings": point.plan.model_dump(mode="json"),
                "fingerprint": data.fingerprint,
                "direction": direction,
            }
            try:
                frame = keep(folder / "points" / f"{point.digest}.parquet", identity, make)
            except UserError as error:
                raise UserError(f"the point {point.label}: {error}") from error
            one = Judged(point, frame)
            judged.append(one)
            runs.point(one, made)
            print(
                f"{direction}: {place + 1} of {len(points)}, {point.label}: val {SELECTED_BY} "
                f"{100 * one.mean(SELECTED_BY):.2f}{'' if made else ' (kept)'}",
                file=sys.stderr,
                flush=True,
            )
        table = as_table(judged)
        with replacing(folder / "points.csv") as part:
            table.to_csv(part, index=False, float_format="%.6g")
        best = max(judged, key=lambda one: tuple(one.mean(metric) for metric in JUDGED))  # the first of equals
        with replacing(folder / "best.yaml") as part:
            part.write_text(
                f"# The best of {len(points)} points on the validation split of {data.name}, {direction}: "
                f"{SELECTED_BY} {100 * best.mean(SELECTED_BY):.2f} %.\n"
                + yaml.safe_dump(best.point.plan.model_dump(mode="json"), sort_keys=False),
                encoding="utf-8",
            )
    except KeyboardInterrupt:
        runs.parent.finish(status="KILLED")
        raise
    except BaseException:
        runs.parent.finish(status="FAILED")
        raise
    runs.parent.finish(
        {**_val(best), "within_one_standard_error": float(table["within"].sum())},
        [folder / "best.yaml", folder / "points.csv"],
    )
    return table, folder / "best.yaml"


def main(arguments: list[str] | None = None) -> None:
    """Search a grid and print its points, best first."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.grid", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plan", type=Path, help="experiments/grid.yaml or your own")
    parser.add_argument("--data", type=Path, required=True, help="an embedding set with a validation split")
    parser.add_argument("--direction", choices=DIRECTIONS, required=True, help="t2i: text to image; i2t: image to text")
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, help="by default runs/grid-DATA")
    parser.add_argument("--mlruns", type=Path, default=Path("mlruns"))
    chosen = parser.parse_args(arguments)
    direction: Direction = chosen.direction
    try:
        points = read_points(chosen.plan, chosen.assignments)
        data = EmbeddingSet.open(chosen.data)
        print(_counted(points), file=sys.stderr, flush=True)
        out = chosen.out or Path("runs") / f"grid-{data.name}"
        table, best = run(data, direction, points, out, tracking=chosen.mlruns, name=chosen.plan.stem)
    except UserError as error:
        print(f"grid: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("grid: interrupted. Run the same command to go on.", file=sys.stderr)
        raise SystemExit(130) from None
    shown = Table(
        title=f"{data.name}, {direction}: {_counted(points)}; validation, %",
        caption=f"behind: {SELECTED_BY} less the best point's, ± its standard error, paired over the queries. Within "
        "one standard error a point can't be told from the best. The best of many is chosen for its luck, too: its own "
        "figure flatters it.",
    )
    keys = list(points[0].values)
    for column in (*keys, *JUDGED, "epoch", "behind", ""):
        shown.add_column(column, justify="left" if column == "" else "right", no_wrap=True)
    for place, line in enumerate(table.to_dict("records")):
        judged = (f"{line[metric]:.2f}" for metric in JUDGED)
        behind = "" if place == 0 else f"{line['behind']:+.2f} ± {line['±']:.2f}"
        mark = "best" if place == 0 else "within 1 standard error" if line["within"] else ""
        shown.add_row(*(line[key] for key in keys), *judged, str(line["epoch"]), behind, mark)
    Console(width=None if sys.stdout.isatty() else 140).print(shown)
    print(f"The best point's settings: {best} (rank-xmodal train --config {best})")


if __name__ == "__main__":
    main()
