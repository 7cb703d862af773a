"""What a grid judges and keeps, its runs in MLflow and its best settings."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml

from experiments.cli import main as cli
from experiments.run.tracking import Tracker, read_runs
from experiments.study import engine, formats, grid, plan, trial
from experiments.study.table import Outcome
from rank_xmodal import scorers
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.judging import SHOWN


@pytest.fixture(scope="module")
def data(random_set, tmp_path_factory):
    splits = ["train"] * 30 + ["val"] * 12 + ["test"] * 12
    return random_set(splits).write(tmp_path_factory.mktemp("grid") / "set")


def plan_at(path, **keys):
    settings = {"features": "embeddings", "epochs": 1, "device": "cpu"}
    values = {"settings": settings, "grid": {"d_model": [8, 16], "heads": [1, 2]}} | keys
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def call(path, data, out, *more):
    verb = ["grid", path, "--data", data.root, "--direction", "t2i", "--out", out, "--mlruns", out / "mlruns", *more]
    cli.main([str(part) for part in verb])


def search(path, data, out, tracking=None):
    return grid.search(plan.read(path, []), data, "t2i", out, tracking=tracking, say=lambda line: None)


def judged(row, values, r1=0.0, epoch=3.0):
    queries = pd.DataFrame({"query": range(len(values)), "ranker/MRR": values})
    figures = dict.fromkeys(SHOWN, 0.0) | {"MRR": float(np.mean(values)), "R@1": r1}
    said = {"split": "val", "queries": len(values), "candidates": 51, "gallery": 100, "ceiling": 1.0}
    report = {
        **said,
        "rows": ["clip", "ranker"],
        "clip": dict.fromkeys(SHOWN, 0.0),
        "ranker": figures,
        "best_epoch": epoch,
    }
    return Outcome(row, "t2i", "gallery", report, queries, {})


def test_the_table_is_ordered_and_marks_what_luck_explains():
    rng = np.random.default_rng(0)
    best = rng.random(400)
    close, far = best - rng.normal(0.001, 0.2, 400), best - rng.normal(0.1, 0.2, 400)
    ones = [judged("far", far), judged("tied", best), judged("best", best, 0.5), judged("close", close)]
    lines = {line.row: line for line in grid.table_of(ones, "title").lines}
    order = list(lines)
    assert (order[0], order[-1]) == ("best", "far")
    within = {"best": "best", "tied": "1 standard error", "close": "1 standard error", "far": ""}
    assert {row: line.facts["within"] for row, line in lines.items()} == within
    assert not lines["best"].against
    for name, values in (("close", close), ("far", far)):
        difference, found = values - best, lines[name].against["best"]
        assert found.gain == pytest.approx(100 * difference.mean())
        assert found.error == pytest.approx(100 * difference.std(ddof=1) / 20)
        assert bool(within[name]) == (-difference.mean() <= difference.std(ddof=1) / 20)
    assert lines["best"].facts["epoch"] == "3"


def test_queries_are_paired_by_their_row():
    shuffled = judged("b", [0.2, 0.6])
    shuffled = replace(shuffled, queries=shuffled.queries.iloc[::-1])
    found = grid.table_of([judged("a", [0.25, 0.65]), shuffled], "title").lines[1].against["best"]
    assert (found.gain, found.error) == (pytest.approx(-5), pytest.approx(0, abs=1e-12))


def test_one_query_tells_nothing_of_the_error():
    lines = grid.table_of([judged("a", [0.9]), judged("b", [0.1], epoch=float("nan"))], "title").lines
    assert lines[1].facts == {"epoch": "", "within": "1 standard error"}


def test_a_search_prints_its_points_tracks_them_nested_and_goes_on(data, tmp_path, capsys, monkeypatch):
    path = plan_at(tmp_path / "small.yaml")
    real, trained = trial.run, []

    def stops(one, desk):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(one)
        return real(one, desk)

    monkeypatch.setattr(trial, "run", stops)
    with pytest.raises(SystemExit) as stop:
        call(path, data, tmp_path)
    assert stop.value.code == 130
    assert capsys.readouterr().err.startswith("4 points: 2 d_model x 2 heads\n")
    monkeypatch.setattr(trial, "run", lambda one, desk: trained.append(one) or real(one, desk))
    call(path, data, tmp_path)
    first = capsys.readouterr()
    assert len(trained) == 4
    assert first.err.count("(kept)") == 2
    assert "best" in first.out

    runs = read_runs(tmp_path / "mlruns", "grid random")
    parent = [run for run in runs if "mlflow.parentRunId" not in run["tags"]]
    assert [run["name"] for run in parent] == ["grid small, t2i"]
    children = [run for run in runs if run["tags"].get("mlflow.parentRunId") == parent[0]["run_id"]]
    assert {run["name"] for run in children} == {f"d_model={d} heads={h}" for d in (8, 16) for h in (1, 2)}
    assert len(children) == 4
    assert len(runs) == 5
    assert parent[0]["metrics"]["val/MRR"] == pytest.approx(max(run["metrics"]["val/MRR"] for run in children))
    assert {"val/MRR", "val/R1", "best_epoch"} <= set(children[0]["metrics"])
    assert parent[0]["params"]["grid.d_model"] == "8, 16"
    assert (parent[0]["artifacts"] / "best.yaml").is_file()

    best = scorers.read(tmp_path / "t2i" / "best.yaml", [])
    table = pd.read_csv(tmp_path / "t2i" / "points.csv")
    assert (best.d_model, best.heads, best.epochs) == (table["d_model"][0], table["heads"][0], 1)
    assert table["MRR"].is_monotonic_decreasing
    monkeypatch.setattr(trial, "run", pytest.fail)  # whatever is finished is not trained again
    call(path, data, tmp_path)
    assert capsys.readouterr().out == first.out
    assert len(read_runs(tmp_path / "mlruns", "grid random")) == 5


def test_the_test_split_has_no_say(data, tmp_path):
    other = np.array(data.image_emb)
    rows = np.flatnonzero(data.images["split"] == "test")
    other[rows] = other[rows[::-1]]
    path = plan_at(tmp_path / "g.yaml", judge="test", folds=2)
    sets = {"a": data, "b": replace(data, image_emb=other)}
    tables = [formats.frame(search(path, own, tmp_path / name)[0]) for name, own in sets.items()]
    pd.testing.assert_frame_equal(*tables)


def test_the_best_settings_train_a_ranker(data, tmp_path):
    call(plan_at(tmp_path / "g.yaml", grid={"d_model": [8]}), data, tmp_path)
    run = ["--direction", "t2i", "--config", tmp_path / "t2i" / "best.yaml", "--out", tmp_path / "run", "--no-tracking"]
    cli.main([str(part) for part in ["train", "--data", data.root, *run]])
    assert (tmp_path / "run" / "config.json").is_file()


def test_what_a_user_can_mend_is_said_before_anything_is_trained(data, random_set, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(trial, "run", pytest.fail)
    with pytest.raises(SystemExit) as stop:
        call(plan_at(tmp_path / "g.yaml", grid={"dmodel": [8]}), data, tmp_path)
    assert stop.value.code == 2
    assert "Did you mean 'd_model'?" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"has no split val to judge by. Give it one\."):
        search(plan_at(tmp_path / "g.yaml"), random_set(["train"] * 20 + ["test"] * 5), tmp_path, tmp_path / "mlruns")
    (tmp_path / "rows.yaml").write_text("rows: {one: {}}\n")
    with pytest.raises(UserError, match=re.escape("rows: has no grid. Give it one, or use `rank-xmodal study`")):
        search(tmp_path / "rows.yaml", data, tmp_path)
    assert not (tmp_path / "mlruns").exists()


def test_a_point_that_fails_is_named_and_the_others_are_kept(data, tmp_path, monkeypatch):
    real, asked = trial.run, []

    def diverges(one, desk):
        asked.append(one)
        if one.settings["d_model"] == 8 and one.settings["heads"] == 1:
            raise UserError("the weights have diverged.")
        return real(one, desk)

    monkeypatch.setattr(trial, "run", diverges)
    with pytest.raises(UserError, match=r"^the point d_model=8 heads=1: the weights have diverged\.$"):
        search(plan_at(tmp_path / "g.yaml"), data, tmp_path)
    assert len(asked) == 4
    monkeypatch.setattr(trial, "run", lambda one, desk: asked.append(one) or real(one, desk))
    search(plan_at(tmp_path / "g.yaml"), data, tmp_path)
    assert len(asked) == 5


@pytest.mark.parametrize(("error", "status"), [(TypeError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_search_that_ends_early_is_marked_so(data, tmp_path, monkeypatch, error, status):
    def ends(*arguments):
        raise error

    finished = []
    monkeypatch.setattr(Tracker, "finish", lambda self, *a, status="FINISHED": finished.append(status))
    monkeypatch.setattr(engine.trial, "run", ends)
    with pytest.raises(error):
        search(plan_at(tmp_path / "g.yaml"), data, tmp_path, tmp_path / "mlruns")
    assert finished == [status]
