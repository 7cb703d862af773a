"""A grid's points, what is judged and kept, its runs in MLflow and its best settings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from experiments.cli import main as cli
from experiments.run.tracking import Tracker, read_runs
from experiments.study import grid
from experiments.study.grid import Judged, Point, as_table, read_points
from rank_xmodal.errors import UserError
from rank_xmodal.scorers import settings

SPLITS = ["train"] * 30 + ["val"] * 12 + ["test"] * 12


@pytest.fixture(scope="module")
def data(random_set, tmp_path_factory):
    return random_set(SPLITS).write(tmp_path_factory.mktemp("grid") / "set")


def plan_at(path, **keys):
    plan = {"settings": {"epochs": 1, "device": "cpu"}, "grid": {"d_model": [8, 16], "heads": [1, 2]}} | keys
    path.write_text(yaml.safe_dump({key: value for key, value in plan.items() if value != "-"}, sort_keys=False))
    return path


def call(plan, data, out, *more):
    paths = ["--data", data.root, "--direction", "t2i", "--out", out, "--mlruns", out / "mlruns"]
    grid.main([str(part) for part in [plan, *paths, *more]])


def test_points_are_the_whole_product(tmp_path):
    points = read_points(plan_at(tmp_path / "g.yaml"), ["lr=0.01"])
    assert [point.values for point in points] == [{"d_model": d, "heads": h} for d in (8, 16) for h in (1, 2)]
    assert {(point.plan.epochs, point.plan.lr) for point in points} == {(1, 0.01)}
    assert len({point.digest for point in points}) == 4


def test_set_goes_before_settings(tmp_path):
    assert {point.plan.epochs for point in read_points(plan_at(tmp_path / "g.yaml"), ["epochs=3"])} == {3}


def test_the_shipped_grid_is_the_papers_model_and_lr():
    points = read_points(Path(grid.__file__).with_name("grid.yaml"), [])
    assert list(points[0].values) == ["d_model", "layers", "heads", "d_ff", "lr"]
    assert len(points) == 48


def frame(values, r1=0.0, epoch=3):
    return pd.DataFrame({"query": range(len(values)), "ranker/MRR": values, "ranker/R@1": r1, "best_epoch": epoch})


def judged(name, values, r1=0.0):
    return Judged(Point({"name": name}, settings.parse({})), frame(values, r1))


def test_the_table_is_ordered_and_marks_what_luck_explains():
    rng = np.random.default_rng(0)
    best = rng.random(400)
    close, far = best - rng.normal(0.001, 0.2, 400), best - rng.normal(0.1, 0.2, 400)
    ones = [judged("far", far), judged("tied", best), judged("best", best, 0.5), judged("close", close)]
    table = as_table(ones).set_index("name")
    assert list(table.index[[0, -1]]) == ["best", "far"]
    assert table["within"].to_dict() == {"best": True, "tied": True, "close": True, "far": False}
    for name, values in (("close", close), ("far", far)):
        difference = values - best
        assert table.loc[name, "behind"] == pytest.approx(100 * difference.mean())
        assert table.loc[name, "±"] == pytest.approx(100 * difference.std(ddof=1) / 20)
        assert table.loc[name, "within"] == (-difference.mean() <= difference.std(ddof=1) / 20)
    assert table.loc["best", "epoch"] == 3


def test_queries_are_paired_by_their_row():
    shuffled = Judged(Point({"name": "b"}, settings.parse({})), frame([0.2, 0.6]).iloc[::-1])
    table = as_table([judged("a", [0.25, 0.65]), shuffled])
    assert table["behind"].tolist() == pytest.approx([0, -5])
    assert table["±"].tolist() == pytest.approx([0, 0], abs=1e-12)


def test_a_search_prints_its_points_tracks_them_nested_and_goes_on(data, tmp_path, capsys, monkeypatch):
    plan = plan_at(tmp_path / "small.yaml")
    real, trained = grid.train, []

    def stops(*arguments, **named):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(arguments[2])
        return real(*arguments, **named)

    monkeypatch.setattr(grid, "train", stops)
    with pytest.raises(SystemExit) as stop:
        call(plan, data, tmp_path)
    assert stop.value.code == 130
    assert capsys.readouterr().err.startswith("4 points: 2 d_model x 2 heads\n")
    monkeypatch.setattr(grid, "train", lambda *a, **n: trained.append(a[2]) or real(*a, **n))
    call(plan, data, tmp_path)
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
    assert parent[0]["metrics"]["val/MRR"] == max(run["metrics"]["val/MRR"] for run in children)
    assert parent[0]["params"]["grid.d_model"] == "8, 16"
    assert (parent[0]["artifacts"] / "best.yaml").is_file()

    best = settings.read(tmp_path / "t2i" / "best.yaml", [])
    table = pd.read_csv(tmp_path / "t2i" / "points.csv")
    assert (best.d_model, best.heads, best.epochs) == (table["d_model"][0], table["heads"][0], 1)
    assert table["MRR"].is_monotonic_decreasing
    monkeypatch.setattr(grid, "train", None)  # whatever is finished is not trained again
    call(plan, data, tmp_path)
    assert capsys.readouterr().out == first.out
    assert len(read_runs(tmp_path / "mlruns", "grid random")) == 5


def test_the_test_split_has_no_say(data, tmp_path):
    other = np.array(data.image_emb)
    rows = np.flatnonzero(data.images["split"] == "test")
    other[rows] = other[rows[::-1]]
    points = read_points(plan_at(tmp_path / "g.yaml"), [])
    tables = [
        grid.run(one, "t2i", points, tmp_path / name, tracking=None)[0]
        for name, one in (("a", data), ("b", replace(data, image_emb=other)))
    ]
    pd.testing.assert_frame_equal(*tables)


def test_the_best_settings_train_a_ranker(data, tmp_path, capsys):
    call(plan_at(tmp_path / "g.yaml", grid={"d_model": [8]}), data, tmp_path)
    run = ["--direction", "t2i", "--config", tmp_path / "t2i" / "best.yaml", "--out", tmp_path / "run", "--no-tracking"]
    cli.main([str(part) for part in ["train", "--data", data.root, *run]])
    assert (tmp_path / "run" / "config.json").is_file()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"gird": {}}, "unknown key 'gird'. Did you mean 'grid'?"),
        ({"grid": {"dmodel": [8]}}, "grid: unknown key 'dmodel'. Did you mean 'd_model'?"),
        ({"settings": {"epoch": 1}}, "settings: unknown key 'epoch'. Did you mean 'epochs'?"),
        ({"grid": {"d_model": []}}, "grid: d_model: the list is empty"),
        ({"grid": {"d_model": 8}}, "grid: d_model: 8 is no list. Write [8]"),
        ({"grid": {}}, "grid: must hold"),
        ({"grid": "-"}, "grid: must hold"),
        ({"grid": {"d_model": [8, 10], "heads": [4]}}, "the point d_model=10 heads=4: d_model=10 must be a multiple"),
        ({"grid": {"epochs": [1, 2]}}, "grid: epochs: stands in settings, too"),
        ({"grid": {"lr": [0.001, "1e-3"]}}, "the point lr=1e-3 is the same as lr=0.001"),
        ({"grid": {"lr": [-1]}}, "the point lr=-1: lr=-1"),
    ],
)
def test_what_a_user_can_mend_is_said_before_anything_is_trained(data, tmp_path, capsys, monkeypatch, keys, message):
    monkeypatch.setattr(grid, "train", None)
    with pytest.raises(SystemExit) as stop:
        call(plan_at(tmp_path / "g.yaml", **keys), data, tmp_path)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "mlruns").exists()


def test_a_set_without_validation_is_refused(random_set, tmp_path):
    points = read_points(plan_at(tmp_path / "g.yaml"), [])
    with pytest.raises(UserError, match="no validation split"):
        grid.run(random_set(["train"] * 20 + ["test"] * 5), "t2i", points, tmp_path, tracking=None)


def test_a_point_that_fails_is_named(data, tmp_path, monkeypatch):
    def diverges(*arguments, **named):
        raise UserError("the weights have diverged.")

    monkeypatch.setattr(grid, "train", diverges)
    points = read_points(plan_at(tmp_path / "g.yaml"), [])
    with pytest.raises(UserError, match=r"^the point d_model=8 heads=1: the weights have diverged"):
        grid.run(data, "t2i", points, tmp_path, tracking=None)


def test_a_failed_search_is_marked_so(data, tmp_path, monkeypatch):
    finished = []
    monkeypatch.setattr(Tracker, "finish", lambda self, *a, status="FINISHED": finished.append(status))
    monkeypatch.setattr(grid, "train", None)
    points = read_points(plan_at(tmp_path / "g.yaml"), [])
    with pytest.raises(TypeError):
        grid.run(data, "t2i", points, tmp_path, tracking=tmp_path / "mlruns")
    assert finished == ["FAILED"]
