"""Studies and comparisons of a labelled set whose images and texts share no space, and plans cut to what a set has."""

import json
import math

import pandas as pd
import pytest
import yaml
from sklearn.metrics import average_precision_score

from experiments.cli import main as cli
from experiments.run.tracking import read_runs
from experiments.study import plan
from experiments.study.fitting import fitted_to, needs_of
from rank_xmodal import scorers
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.scorers import stack

PLAN = {
    "against": ["random order", "CLIP", "CCA"],
    "judge": "test",
    "seeds": 1,
    "cost": True,
    "fitting": True,
    "settings": {"device": "cpu"},
    "rows": {
        "cosine": {"scorer": "clip"},
        "CCA": {"scorer": "linear", "method": "cca"},
        "SM": {"scorer": "posterior", "method": "sm"},
        "codes": {"scorer": "hash", "objective": "contrastive", "bits": 16},
        "ranker": {"loss": "listnet"},
        "late interaction": {"scorer": "late_interaction"},
    },
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Time no cross-encoder of real size."""
    monkeypatch.setattr("experiments.study.engine._cross_encoder", lambda: "")


@pytest.fixture
def kinds(two_kinds):
    """Return the folder of the set."""
    return two_kinds[0] / "set"


def run(*arguments):
    cli.main([str(argument) for argument in arguments])


def planned(path, **keys):
    path.write_text(yaml.safe_dump({**PLAN, **keys}, sort_keys=False))
    return path


def test_a_study_ranks_the_whole_gallery_and_tests_by_classes(kinds, tmp_path, capsys):
    out = tmp_path / "out"
    made = ("study", planned(tmp_path / "plan.yaml"), "--data", kinds, "--out", out)
    run(*made, "--mlruns", tmp_path / "mlruns")
    table = pd.read_csv(out / "table.csv")
    assert table["row"].tolist() == 2 * ["random order", "CCA", "SM", "codes"]
    by = table.set_index(["direction", "row"])
    for way in ("t2i", "i2t"):
        assert by.loc[(way, "random order"), "class MAP"] == pytest.approx(36, abs=6)  # three classes
        assert by.loc[(way, "SM"), "class MAP"] > 80
        assert by.loc[(way, "CCA"), "- random order"] == pytest.approx(
            by.loc[(way, "CCA"), "class MAP"] - by.loc[(way, "random order"), "class MAP"]
        )
        assert by.loc[(way, "CCA"), "p random order"] < 0.01
        assert by.loc[(way, "codes"), "bytes an item"] == 2  # 16 bits
        assert by.loc[(way, "SM"), "needs"] == "classes, pairs"
    text = (out / "table.md").read_text()
    assert "a gallery of 60 ranked" in text
    assert "p: class MAP against" in text
    assert "Not on this set: cosine (need one space); ranker (need lists, pairs, one space); late interaction" in text
    assert "test class MAP" in capsys.readouterr().err
    runs = read_runs(tmp_path / "mlruns", "plan two kinds")
    assert all("class_MAP" in entry["metrics"] for entry in runs)
    run(*made, "--mlruns", tmp_path / "mlruns")
    assert "(kept)" in capsys.readouterr().err


def test_class_map_is_scikit_learns(kinds, tmp_path):
    data = EmbeddingSet.open(kinds)
    run("study", planned(tmp_path / "plan.yaml", rows={"CCA": {"scorer": "cca"}}), "--data", kinds, "--out",
        tmp_path / "out", "--mlruns", tmp_path / "mlruns", "--direction", "t2i")  # fmt: skip
    found = pd.read_csv(tmp_path / "out" / "table.csv").set_index("row").loc["CCA", "class MAP"]
    scorer = scorers.get("cca", device="cpu").fit(data, "t2i")
    test = data.candidate_rows("t2i", "test")
    queries, candidates = (
        mapped(side[test])
        for mapped, side in ((scorer.map_queries, data.text_emb), (scorer.map_candidates, data.image_emb))
    )
    classes = data.images["labels"].to_numpy()[test]
    expected = [
        average_precision_score(classes == own, score)
        for own, score in zip(classes, queries @ candidates.T, strict=True)
    ]
    assert found == pytest.approx(100 * sum(expected) / len(expected), abs=1e-3)


def test_a_plan_that_tests_by_classes_wants_some(random_set, tmp_path, capsys):
    data = random_set(["train"] * 90 + ["test"] * 60).write(tmp_path / "set")
    path = planned(tmp_path / "plan.yaml", tested="class MAP", fitting=False, against=["CLIP"],
                   rows={"cosine": {"scorer": "clip"}})  # fmt: skip
    with pytest.raises(SystemExit):
        run("study", path, "--data", data.root, "--out", tmp_path / "out")
    assert "has no classes, and the plan tests by class MAP" in capsys.readouterr().err


def test_protocols_of_mined_lists_need_a_common_space(kinds, tmp_path, capsys):
    path = planned(tmp_path / "plan.yaml", protocols=["paper"], rows={"CCA": {"scorer": "cca"}}, against=[])
    with pytest.raises(SystemExit):
        run("study", path, "--data", kinds, "--out", tmp_path / "out")
    assert "no common space, where lists could be mined for paper" in capsys.readouterr().err


def test_a_plan_of_which_nothing_fits_is_told(kinds, tmp_path, capsys):
    path = planned(tmp_path / "plan.yaml", rows={"cosine": {"scorer": "clip"}}, against=[])
    with pytest.raises(SystemExit):
        run("study", path, "--data", kinds, "--out", tmp_path / "out")
    assert "no row of the plan plan fits the set" in capsys.readouterr().err


def test_ours_of_every_system_reads_and_fits_some_of_any_set(kinds, random_set):
    ours = plan.read(plan.FOLDER / "systems.yaml", [])
    two = fitted_to(ours, EmbeddingSet.open(kinds))
    assert two.tested == "class MAP"
    assert {"JRL", "DCMH", "CCA of any features"} < set(two.trained)
    assert not {"cosine", "SCAN", "ListNet ranker"} & set(two.trained)
    bare = fitted_to(ours, random_set(["train"] * 90 + ["test"] * 60))
    assert {"cosine", "ListNet ranker", "DJSRH"} < set(bare.trained)
    assert not {"SCAN", "JRL", "DCMH"} & set(bare.trained)
    used = {row.settings.scorer for row in ours.trained.values()} | {row.settings.on for row in ours.trained.values()}
    left = {"blip_itm", "remote", "chance", "allrank", "gaussian", "convex", "neighbours"}
    assert used | left == set(scorers.names()), "a scorer that no row shows; name it in the plan, or here with a reason"


@pytest.fixture
def short(monkeypatch):
    """Make lists so short that most of the gallery is left out."""
    monkeypatch.setattr(stack, "_DEEPEST", 1)
    monkeypatch.setattr(stack, "DEPTH", 5)


def test_a_random_order_is_of_the_whole_gallery_where_lists_are_short(kinds, tmp_path, short):
    run("study", planned(tmp_path / "plan.yaml"), "--data", kinds, "--out", tmp_path / "out", "--mlruns",
        tmp_path / "mlruns", "--direction", "t2i")  # fmt: skip
    table = pd.read_csv(tmp_path / "out" / "table.csv").set_index("row")
    assert table.loc["random order", "class MAP"] == pytest.approx(36, abs=6)
    assert table.loc["random order", "class MAP sd"] == pytest.approx(0, abs=1e-9)
    assert table.loc["SM", "class MAP"] > 80
    assert "query banks" not in (tmp_path / "out" / "table.md").read_text()


def test_runs_are_compared_where_lists_are_short(kinds, tmp_path, short, capsys):
    for name in ("linear", "posterior"):
        run("train", "--data", kinds, "--direction", "t2i", "--scorer", name, "--set", "device=cpu", "--out",
            tmp_path / name, "--no-tracking")  # fmt: skip
    capsys.readouterr()
    run("compare", tmp_path / "linear", tmp_path / "posterior")
    assert "class MAP" in capsys.readouterr().out


def test_csls_keeps_neighbours_and_what_its_base_made(kinds, tmp_path):
    rows = {"CCA": {"scorer": "cca"}, "CSLS": {"scorer": "csls", "on": "cca"}}
    run("study", planned(tmp_path / "plan.yaml", rows={"CCA": rows["CCA"], "on CCA": rows["CSLS"]}), "--data", kinds,
        "--out", tmp_path / "out", "--mlruns", tmp_path / "mlruns", "--direction", "t2i")  # fmt: skip
    table = pd.read_csv(tmp_path / "out" / "table.csv").set_index("row")
    assert table.loc["on CCA", "bytes an item"] == table.loc["CCA", "bytes an item"] + 10 * (4 + 8)


@pytest.mark.parametrize(
    ("keys", "message"),
    [({"protocols": ["paper"]}, "paper are lists"), ({"rows": {}, "grid": {"seed": [0, 1]}}, "chosen by MRR")],
)
def test_class_map_is_of_a_whole_gallery(tmp_path, keys, message):
    with pytest.raises(UserError, match=message):
        plan.read(planned(tmp_path / "plan.yaml", tested="class MAP", against=[], **keys), [])


@pytest.mark.parametrize(
    ("settings", "needs"),
    [
        ({"scorer": "clip"}, "one space"),
        ({"scorer": "linear", "method": "pls"}, "pairs"),
        ({"scorer": "csls", "on": "cca"}, "pairs"),
        ({"scorer": "csls"}, "one space"),
        ({"scorer": "scan"}, "words and cells, pairs, one space"),
        ({"scorer": "prototype"}, "classes, pairs"),
    ],
)
def test_needs_in_words(settings, needs):
    said = needs_of(scorers.parse(settings)).split(", ")
    assert set(needs.split(", ")) <= set(said)


def test_runs_of_two_scorers_are_compared_where_each_ranks_the_whole_gallery(kinds, tmp_path, capsys):
    folders = []
    for name, method in (("pls", "pls"), ("cca", "cca")):
        folders.append(tmp_path / name)
        run("train", "--data", kinds, "--direction", "t2i", "--scorer", "linear", "--set",
            f"method={method}", "--set", "device=cpu", "--out", folders[-1],
            "--mlruns", tmp_path / "mlruns")  # fmt: skip
    facts = json.loads((folders[0] / "test.json").read_text())
    assert 0.3 < facts["chance"]["class MAP"] < 0.45 < facts["ranker"]["class MAP"]
    logged = read_runs(tmp_path / "mlruns", "two kinds")[0]["metrics"]
    assert logged["test/class_MAP"] > logged["test_chance/class_MAP"]
    capsys.readouterr()
    run("compare", *folders, "--format", "csv", "--plots", tmp_path / "plots")
    said = capsys.readouterr().out
    lines = said[said.index("direction,") :].splitlines()
    table = pd.DataFrame([line.split(",") for line in lines[1:4]], columns=lines[0].split(","))
    assert table["row"].str.split().str[0].tolist() == ["random", "linear", "linear"]
    assert not any(math.isnan(float(value)) for value in table["class MAP"])
    assert (tmp_path / "plots" / "rank_shifts.png").is_file()
