"""Folds, the figures of a study's table, and a study from its YAML file to its tables."""

import numpy as np
import pandas as pd
import pytest
import yaml

from experiments.run.tracking import read_runs
from experiments.study import study
from experiments.study.splits import fold_of
from experiments.study.study import Row, as_table
from rank_xmodal.evaluation.significance import paired_p


@pytest.fixture(scope="module")
def data(random_set, tmp_path_factory):
    """Return 40 images and captions without a validation split."""
    return random_set(["train"] * 40).write(tmp_path_factory.mktemp("study") / "set")


def plan_at(path, **keys):
    plan = {"against": ["CLIP"], "settings": {"epochs": 1}, "rows": {"one": {"loss": "listnet"}}} | keys
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    return path


def test_set_goes_before_settings_and_a_rows_own_before_it(tmp_path):
    plan = plan_at(tmp_path / "p.yaml", settings={"loss": "listnet"}, rows={"one": {}, "two": {"loss": "hinge"}})
    rows, _ = study.read_plan(plan, ["loss=ranknet", "lr=0.5"])
    assert {name: (row.loss, row.lr) for name, row in rows.items()} == {"one": ("ranknet", 0.5), "two": ("hinge", 0.5)}


def test_every_image_is_tested_once_in_a_permutation(data):
    parts = [fold_of(data, fold, 3, 0) for fold in range(3)]
    tested = np.concatenate([np.flatnonzero(part.images["split"] == "test") for part in parts])
    assert len(set(tested.tolist())) == len(tested) == 39
    assert all((part.images["split"] == part.texts["split"]).all() for part in parts)
    assert not (fold_of(data, 0, 3, 1).images["split"] == parts[0].images["split"]).all()


def frame(queries, values, csls=0.0):
    columns = {"query": queries}
    for name in study.SHOWN:
        columns |= {f"clip/{name}": 0.0, f"csls/{name}": csls, f"ranker/{name}": values}
    return pd.DataFrame(columns)


def test_folds_make_up_a_repeat_and_repeats_are_averaged():
    frames = [(0, frame([0, 1], [1.0, 0.0])), (0, frame([2, 3], [1.0, 1.0])), (1, frame([3, 2, 1, 0], [0, 0, 1.0, 1]))]
    row = Row.gather(frames, "ranker")
    assert row.by_repeat["R@1"] == [0.75, 0.5]
    assert row.by_query.to_dict() == {0: 1.0, 1: 0.5, 2: 0.5, 3: 0.5}


def test_the_table_holds_mean_spread_gain_and_p():
    rng = np.random.default_rng(0)
    hits = [(rng.random(200) < share).astype(float) for share in (0.6, 0.7)]
    rows = {
        "CLIP": Row.gather([(0, frame(range(200), 0.0)), (1, frame(range(200), 0.0))], "clip"),
        "one": Row.gather([(r, frame(range(200), hits[r])) for r in (0, 1)], "ranker"),
    }
    table = as_table(rows, ["CLIP"], "t2i").set_index("t2i")
    means = [100 * hit.mean() for hit in hits]
    assert table.loc["one", "R@1"] == pytest.approx(np.mean(means))
    assert table.loc["one", "±"] == pytest.approx(np.std(means, ddof=1))
    assert table.loc["one", "- CLIP"] == pytest.approx(np.mean(means))
    assert table.loc["one", "p CLIP"] == paired_p((hits[0] + hits[1]) / 2, np.zeros(200))
    assert np.isnan(table.loc["CLIP", "p CLIP"])


def test_a_study_prints_a_table_for_each_direction_tracks_it_and_goes_on(data, tmp_path, capsys, monkeypatch):
    plan = plan_at(tmp_path / "small.yaml", rows={"one": {}, "two, wide": {"d_model": 8, "heads": 2}})
    call = [plan, "--data", data.root, "--folds", 2, "--permutations", 1, "--out", tmp_path / "out"]
    call = [str(part) for part in [*call, "--mlruns", tmp_path / "mlruns"]]
    study.main(call)
    first = capsys.readouterr().out
    assert first.count("two, wide") == 2
    assert "2 folds of 1 permutations" in first
    runs = read_runs(tmp_path / "mlruns", "small random")
    assert {(run["tags"]["row"], run["tags"]["direction"]) for run in runs} == {
        (row, direction) for row in ("one", "two, wide") for direction in ("t2i", "i2t")
    }
    assert all("R1_gain_over_CLIP" in run["metrics"] for run in runs)
    monkeypatch.setattr(study, "train", None)  # whatever is finished is not trained again
    study.main(call)
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("keys", "more", "message"),
    [
        ({"against": ["nobody"]}, ["--folds", "2"], "'nobody' is no row. Rows are CLIP, CSLS, one"),
        (
            {"rows": {"one": {"los": "listnet"}}},
            ["--folds", "2"],
            "p.yaml: rows: one: unknown key 'los'. Did you mean 'loss'",
        ),
        ({"rows": {"one": ["listnet"]}}, [], "p.yaml: rows: one: must hold `key: value` lines, found ['listnet']"),
        ({"rows": {}}, [], "must have exactly the keys"),
        ({"settings": 3}, [], "p.yaml: settings: must hold `key: value` lines, found 3"),
        ({"against": "CLIP"}, [], "against: 'CLIP' is no list. Write [CLIP]"),
        ({"rows": {"CSLS": {}}}, [], "'CSLS' is always there"),
        ({"rows": {"a b": {}, "a, b": {}}}, [], "'a, b' and 'a b' would share its files"),
        ({}, ["--seeds", "0"], "--seeds 0: must be 1 or more"),
        ({}, ["--folds", "2", "--permutations", "0"], "--permutations 0: must be 1 or more"),
        ({"extra": 1}, [], "must have exactly the keys against, rows, settings"),
        ({}, [], "no validation split to choose by"),
        ({}, ["--folds", "21"], "must be between 2 and 20"),
    ],
)
def test_what_a_user_can_mend_ends_with_2(data, tmp_path, capsys, keys, more, message):
    with pytest.raises(SystemExit) as stop:
        study.main([str(plan_at(tmp_path / "p.yaml", **keys)), "--data", str(data.root), *more])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
