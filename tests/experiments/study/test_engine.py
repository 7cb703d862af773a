"""Each distinct list is mined once, each distinct training made once; a study from its plan to its table and runs."""

import io
from collections import Counter

import pandas as pd
import pytest
import yaml

from experiments.cli import main as cli
from experiments.run import procedure
from experiments.run.procedure import Fitted
from experiments.run.tracking import read_runs
from experiments.study import engine, plan, trial
from experiments.study.plan import FOLDER
from rank_xmodal.errors import UserError
from rank_xmodal.retrieval.query_bank import choose_bank
from rank_xmodal.scorers import Stack
from rank_xmodal.scorers.cosine import Cosine

QUICK = {"epochs": 1, "d_model": 8, "heads": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def data(random_set, tmp_path_factory):
    """Return 40 images and captions without a validation split."""
    return random_set(["train"] * 40).write(tmp_path_factory.mktemp("study") / "set")


@pytest.fixture(scope="module")
def split(random_set, tmp_path_factory):
    return random_set(["train"] * 90 + ["val"] * 20 + ["test"] * 80).write(tmp_path_factory.mktemp("split") / "set")


def plan_at(path, **keys):
    values = {"against": ["CLIP"], "settings": QUICK, "rows": {"one": {"loss": "listnet"}}} | keys
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


@pytest.fixture
def mined(monkeypatch):
    """Return what is asked of the miner of training lists, counted."""
    asked, real = Counter(), trial.mined

    def counting(data, direction, settings):
        request = trial.request(data, direction, settings)
        asked[(data.fingerprint, direction, *map(str, request.values()))] += 1
        return real(data, direction, settings)

    monkeypatch.setattr(trial, "mined", counting)
    return asked


@pytest.fixture
def fitted(monkeypatch):
    """Replace the fits by CLIP's cosine, which is quick, and return whose they were."""
    asked = []

    def fit(data, direction, settings, prepared, **named):
        asked.append((data.fingerprint, direction, settings))
        stack = Stack(Cosine(), data.queries(direction)[choose_bank(data, direction)])
        return Fitted(stack, ("train",), [], 0, None)

    monkeypatch.setattr(procedure, "fit", fit)
    return asked


def test_the_ablation_mines_each_distinct_list_once(random_set, tmp_path, mined, fitted):
    """Its 13 rows ask for 5, 2 and 10 inner folds and two kinds of lists of a whole train split: 19 minings a fold."""
    data = random_set(["train"] * 150).write(tmp_path / "set")
    read = plan.read(FOLDER / "ablation.yaml", ["negatives=10"]).model_copy(update={"folds": 5})
    outcomes = engine.run(read, data, ["t2i", "i2t"], tmp_path, lambda line: None)
    assert set(mined.values()) == {1}
    assert len(mined) == 2 * 10 * (5 + 2 + 10 + 2)
    assert len(fitted) == 2 * 130
    assert [one.row for one in outcomes[:4]] == ["full"] * 4  # two repeats, two directions


def test_refits_and_inner_folds_mine_their_lists_once_for_all_rows(random_set, tmp_path, mined):
    data = random_set(["train"] * 150 + ["val"] * 40 + ["test"] * 40, noise=1.5).write(tmp_path / "set")
    quick = QUICK | {"features": "embeddings", "lr": 0.001, "epochs": 10, "negatives": 10}
    rows = {
        "one": {},
        "on CCA": {"on": "cca"},
        "two": {"loss": "ranknet"},
        "two on CCA": {"on": "cca", "loss": "ranknet"},
    }
    read = plan.read(plan_at(tmp_path / "p.yaml", rows=rows, judge="test", seeds=1, settings=quick), [])
    engine.run(read, data, ["t2i"], tmp_path, lambda line: None)
    assert set(mined.values()) == {1}
    assert sum("inner fold" in of for of, *_ in mined) in (5, 10)
    assert any(of.endswith("train and val") for of, *_ in mined), "nothing was fitted again: no test"


def test_rows_that_are_equal_are_trained_once(data, tmp_path, fitted):
    rows = {"one": {}, "two": {"loss": "ranknet"}, "the first again": {"device": "auto"}}
    read = plan.read(plan_at(tmp_path / "p.yaml", rows=rows, folds=2, permutations=1), [])
    outcomes = engine.run(read, data, ["t2i"], tmp_path, lambda line: None)
    assert len(fitted) == 2 * 2
    assert [one.row for one in outcomes] == list(rows)
    assert outcomes[0].report == outcomes[2].report


def test_a_row_is_trained_once_for_all_protocols_it_can_serve(split, tmp_path, fitted):
    rows = {"recipe": {"features": "concat", "lists": "judged"}, "ours": {}, "CCA": {"scorer": "cca"}}
    keys = {"settings": {"device": "cpu"}, "protocols": ["paper", "clean", "gallery"], "judge": "test", "seeds": 1}
    read = plan.read(plan_at(tmp_path / "p.yaml", rows=rows, **keys), [])
    outcomes = engine.run(read, split, ["t2i"], tmp_path, lambda line: None)
    lists = [getattr(settings, "lists", None) for _, _, settings in fitted]
    assert sorted(map(str, lists)) == ["None", "clean", "natural", "paper"]
    assert [(one.row, one.protocol) for one in outcomes] == [(row, p) for row in rows for p in keys["protocols"]]


def test_seeds_and_folds_are_other_trainings(split, tmp_path, fitted):
    read = plan.read(plan_at(tmp_path / "p.yaml", rows={"one": {"seed": 10}}, seeds=3), [])
    engine.run(read, split, ["t2i"], tmp_path, lambda line: None)
    assert [settings.seed for _, _, settings in fitted] == [10, 11, 12]
    folds = read.model_copy(update={"folds": 2, "permutations": 2})
    engine.run(folds, split, ["t2i"], tmp_path, lambda line: None)
    assert [settings.seed for _, _, settings in fitted[3:]] == [10, 11, 12, 13]
    assert len({fingerprint for fingerprint, _, _ in fitted}) == 5


def call(*arguments, code=None):
    if code is None:
        cli.main([str(part) for part in arguments])
        return
    with pytest.raises(SystemExit) as stop:
        cli.main([str(part) for part in arguments])
    assert stop.value.code == code


def test_a_study_prints_a_table_for_each_direction_tracks_it_and_goes_on(data, tmp_path, capsys, monkeypatch):
    rows = {"one": QUICK, "two, wide": QUICK | {"d_model": 16}, "CSLS on centred": {"scorer": "csls", "on": "centred"}}
    path = plan_at(tmp_path / "small.yaml", rows=rows, against=["CLIP", "two, wide"], settings=None)
    verb = ["study", path, "--data", data.root, "--folds", 2, "--permutations", 1, "--out", tmp_path / "out"]
    verb += ["--mlruns", tmp_path / "mlruns"]
    call(*verb)
    first = capsys.readouterr()
    assert first.out.count("│ two, wide ") == 2
    assert "2 folds of 1 permutations" in first.out
    assert first.err.startswith("t2i: 1 of 12, one: test MRR ")
    runs = read_runs(tmp_path / "mlruns", "small random")
    assert {(run["tags"]["row"], run["tags"]["direction"]) for run in runs} == {
        (row, direction) for row in ("CLIP", "CSLS", *rows) for direction in ("t2i", "i2t")
    }
    assert all("R1_gain_over_CLIP" in run["metrics"] for run in runs if run["tags"]["row"] in rows)
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert len(table) == 10
    assert (tmp_path / "out" / "table.md").read_text().count("| two, wide |") == 2
    monkeypatch.setattr(trial, "run", pytest.fail)  # whatever is finished is not trained again
    call(*verb)
    assert capsys.readouterr().out == first.out
    call(*verb, "--direction", "i2t", "--format", "csv", "--plots", tmp_path / "plots")
    assert set(pd.read_csv(io.StringIO(capsys.readouterr().out))["direction"]) == {"i2t"}
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"recall.png", "rank_shifts.png"}


def test_a_row_that_fails_is_named(data, tmp_path, monkeypatch):
    def diverges(*arguments):
        raise UserError("the weights have diverged.")

    monkeypatch.setattr(trial, "run", diverges)
    read = plan.read(plan_at(tmp_path / "p.yaml", folds=2), [])
    with pytest.raises(UserError, match=r"^the row one: the weights have diverged\.$"):  # once, not for each fold
        engine.run(read, data, ["t2i"], tmp_path, lambda line: None)


def test_rows_that_fail_are_all_named(data, tmp_path, monkeypatch):
    def diverges(one, desk):
        raise UserError(f"{one.settings['loss']} has diverged.")

    monkeypatch.setattr(trial, "run", diverges)
    rows = {loss: {"loss": loss} for loss in ("listnet", "ranknet")}
    read = plan.read(plan_at(tmp_path / "p.yaml", rows=rows, folds=2), [])
    with pytest.raises(UserError) as error:
        engine.run(read, data, ["t2i"], tmp_path, lambda line: None)
    assert str(error.value).splitlines() == [
        "8 trials failed; what the others made is kept.",
        "the row listnet: listnet has diverged.",
        "the row ranknet: ranknet has diverged.",
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "has no split val to judge by. Give it one, or use --folds 5"),
        (["--folds", "21"], "must be between 2 and 20"),
        (["--seeds", "0"], "'--seeds': 0 is not in the range"),
        (["--folds", "2", "--permutations", "0"], "'--permutations': 0 is not in the range"),
        (["--folds", "1"], "'--folds': 1 is not in the range"),
    ],
)
def test_what_a_user_can_mend_ends_with_2(data, tmp_path, capsys, more, message):
    call("study", plan_at(tmp_path / "p.yaml"), "--data", data.root, *more, code=2)
    assert message in capsys.readouterr().err


def test_a_plan_is_found_by_name_and_a_slip_is_hinted_at(data, capsys):
    call("study", "losse", "--data", data.root, code=2)
    assert "losse: no such file or plan. Did you mean 'losses'?" in capsys.readouterr().err
