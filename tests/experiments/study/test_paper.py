"""The paper's table: what the protocols do to CLIP's own row, and a whole small run."""

import numpy as np
import pandas as pd
import pytest
import torch

from data_prep.mining.miner import mine
from experiments.cli import main as cli
from experiments.run.tracking import read_runs
from experiments.study import plan, trial
from rank_xmodal.evaluation.judging import mean, per_query
from rank_xmodal.retrieval.gallery import RankedGallery, rank_gallery


def table_of(data, protocol):
    lists = mine(data, "t2i", "test", negatives=50, pool=200, protocol=protocol, seed=0)
    return lists, per_query(torch.from_numpy(lists.cosine), RankedGallery.of_mined(lists))


def test_an_unprotected_positive_costs_clip_its_first_place_and_a_protected_one_does_not(random_set):
    data = random_set(["train"] * 60 + ["test"] * 200, noise=0.3, d=16)
    (paper_lists, unprotected), (_, protected) = table_of(data, "paper"), table_of(data, "clean")
    twice = np.array([len(set(row)) < len(row) for row in paper_lists.candidates.tolist()])
    assert twice.mean() > 0.95, "the pool is the whole gallery: nearly every positive is mined as its own negative"
    assert protected["R@1"].mean() > 0.9
    assert not unprotected["R@1"][torch.from_numpy(twice)].any(), "tied with itself, and ties count as misses"
    assert unprotected["R@5"].mean() > 0.95, "R@5 hardly changes"


def paper(data, out, *more):
    cli.main([str(part) for part in ["paper", "--data", data.root, "--out", out, "--mlruns", out / "mlruns", *more]])


@pytest.fixture
def few(monkeypatch, tmp_path):
    """Let the plan have but these rows."""
    rows = ("CCA", "ListNet", "ours, ListNet")
    text = (plan.FOLDER / "paper.yaml").read_text()
    kept = [line for line in text.splitlines() if not line.startswith("  ") or any(f"  {row}:" in line for row in rows)]
    recipe = "{features: concat, lists: judged, epochs: 3, patience: 3, loss: listnet}"
    (tmp_path / "plans" / "published").mkdir(parents=True)
    (tmp_path / "plans" / "paper.yaml").write_text("\n".join(kept).replace("{<<: *recipe, loss: listnet}", recipe))
    published = "published/paper.yaml"
    (tmp_path / "plans" / published).write_text((plan.FOLDER / published).read_text())
    monkeypatch.setattr(plan, "FOLDER", tmp_path / "plans")
    return rows


def test_a_small_table_is_filled_tracked_and_kept(random_set, tmp_path, capsys, monkeypatch, few):
    data = random_set(["train"] * 90 + ["val"] * 20 + ["test"] * 80).write(tmp_path / "set")
    out, more = tmp_path / "o", ["--epochs", 1, "--seeds", 2, "--device", "cpu"]
    paper(data, out, *more)
    text = capsys.readouterr().out
    for word in ("text to image", "CCA", "ours, ListNet", "29.46 / 83.46 / 90.30", "docs/reading-the-table.md"):
        assert word in text
    assert "1 epochs of the paper's recipe." in " ".join(text.split())
    table = pd.read_csv(out / "table.csv").set_index(["protocol", "direction", "row"])
    rows = ("CLIP", "CSLS", *few)
    assert list(table.index) == [
        (p, d, row) for p in ("paper", "clean", "gallery") for d in ("t2i", "i2t") for row in rows
    ]
    trials = [pd.read_parquet(path) for path in sorted((out / "trials").glob("i2t-*.parquet"))]
    assert len(trials) == 2 * 4, "per seed: CCA, ours, and the recipe on paper's lists and on clean ones"
    line = table.loc[("clean", "i2t", "ListNet")]
    assert line["R@5 published"] == 57.50
    assert line["seeds"] == 2
    assert 0 <= line["p CLIP"] <= 1
    assert (out / "table.md").read_text().count("57.50") == 3
    assert len(read_runs(out / "mlruns", "paper random")) == 3 * 2 * len(rows)
    monkeypatch.setattr(trial, "run", pytest.fail)
    paper(data, out, *more)
    assert capsys.readouterr().out == text


def test_gallery_is_what_evaluate_counts(random_set, tmp_path):
    data = random_set(["train"] * 90 + ["test"] * 80).write(tmp_path / "set")
    paper(data, tmp_path / "o", "--baselines", "--epochs", 1)
    table = pd.read_csv(tmp_path / "o" / "table.csv").set_index(["direction", "row"])
    assert set(table["protocol"]) == {"gallery"}
    assert "VSE++" in table.loc["t2i"].index
    assert "RankNet" not in table.loc["t2i"].index
    for direction in ("t2i", "i2t"):
        gallery = rank_gallery(data, direction, "test")
        values = mean(per_query(torch.from_numpy(gallery.lists.cosine), gallery))
        assert table.loc[(direction, "CLIP"), "R@1"] == pytest.approx(100 * float(values["R@1"]), rel=1e-5)


def test_epochs_are_those_of_the_recipe(random_set, tmp_path, monkeypatch):
    data = random_set(["train"] * 60 + ["test"] * 60).write(tmp_path / "set")
    asked = []

    def stop(one, desk):
        asked.append(one)
        raise KeyboardInterrupt

    monkeypatch.setattr(trial, "run", stop)
    monkeypatch.setattr("experiments.study.engine.run", lambda plan, *_, **__: asked.append(plan) or stop(plan, None))
    for more, recipe, seeds in (([], 3, 1), (["--full"], 100, 5), (["--epochs", 4, "--seeds", 2], 4, 2)):
        with pytest.raises(SystemExit):
            paper(data, tmp_path / "o", *more)
        rows = {name: row.settings for name, row in asked[-1].trained.items()}
        assert (rows["RankNet"].epochs, rows["RankNet"].patience) == (recipe, recipe)
        assert rows["ours, ListNet"].features == "full"
        assert rows["VSE++"].epochs == 30
        assert asked[-1].seeds == seeds


def test_a_set_that_is_too_small_is_refused(random_set, tmp_path, capsys):
    data = random_set(["train"] * 90 + ["test"] * 20).write(tmp_path / "set")
    with pytest.raises(SystemExit) as stop:
        paper(data, tmp_path / "o")
    assert stop.value.code == 2
    assert "test split has 20 candidates t2i; the recipe's lists of 51 need more" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--epochs", "--seeds"])
def test_a_count_below_one_is_refused(option, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["paper", "--data", "data/none", option, "0"])
    assert stop.value.code == 2
    assert f"'{option}': 0 is not in the range" in capsys.readouterr().err
