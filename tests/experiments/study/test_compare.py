"""Finished runs side by side: which may stand in one table, and as what."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from experiments.cli import main as cli
from experiments.study import compare
from experiments.study.compare import as_table, from_experiment, from_folders
from experiments.study.table import Outcome
from rank_xmodal import scorers
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.judging import SHOWN
from rank_xmodal.evaluation.significance import paired_p

STAGE = {"split": "test", "candidates": 51, "gallery": 1_000, "queries": 300, "first_stage": "clip", "ceiling": 1.0}


def run(direction="t2i", seed=0, r1=0.5, loss="listnet", on="data", queries=None, stage=STAGE, **settings):
    figures = {
        "clip": dict.fromkeys(SHOWN, 0.4),
        "csls": dict.fromkeys(SHOWN, 0.45),
        "ranker": dict.fromkeys(SHOWN, r1),
    }
    return Outcome(
        loss, direction, "gallery", {**stage, "rows": [*figures], **figures}, queries,
        {"loss": loss, "seed": seed, "epochs": 20, **settings}, on, f"{loss}-{direction}" + f"-{seed}" * bool(seed),
    )  # fmt: skip


def values(runs):
    """Return R@1 of each outcome, by row."""
    return {
        line.row: [one.report[line.source]["R@1"] for one in line.outcomes] for line in as_table(runs, "title").lines
    }


def test_seeds_are_gathered_and_clip_and_csls_come_first():
    found = values([run(seed=1, r1=0.6), run(seed=0, r1=0.5), run(loss="lambdarank")])
    assert list(found) == ["CLIP", "CSLS", "lambdarank", "listnet"]
    assert found["listnet"] == [0.5, 0.6]
    assert found["CLIP"] == [0.4]


def test_runs_with_other_settings_are_rows_of_their_own():
    found = values([run(), run(seed=1), run(epochs=30, r1=0.7)])
    assert found["listnet epochs=20"] == [0.5, 0.5]
    assert found["listnet epochs=30"] == [0.7]


def test_settings_that_differ_late_in_a_long_value_are_not_averaged_as_seeds():
    long = ["concat", "product", "cosine"]
    found = values([run(blocks=long), run(seed=1, blocks=[*long[:2], "hubness"], r1=0.9)])
    assert len(found) == 4
    assert all(len(of) == 1 for of in found.values())


def test_runs_on_different_data_are_refused():
    with pytest.raises(UserError, match=r"listnet-t2i and ranknet-t2i .* different data .* can't be"):
        as_table([run(), run(loss="ranknet", on="other")], "title")


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("split", "val", "split, test and val"),
        ("candidates", 101, "depth of the lists, 51 and 101"),
        ("gallery", 5_000, "gallery, 1000 and 5000"),
        ("queries", 299, "number of queries, 300 and 299"),
        ("first_stage", "vsepp", "first stage, clip and vsepp"),
    ],
)
def test_runs_evaluated_in_another_way_are_refused(key, value, what):
    with pytest.raises(UserError, match=f"listnet-t2i and ranknet-t2i were evaluated with a different {what};"):
        as_table([run(), run(loss="ranknet", stage=STAGE | {key: value})], "title")
    as_table([run(), run("i2t", stage=STAGE | {"gallery": 5_000})], "title")  # directions have galleries of their own


def test_runs_that_disagree_about_clip_are_refused():
    other = run(loss="ranknet")
    other.report["clip"]["R@1"] = 0.41
    with pytest.raises(
        UserError, match=r"listnet-t2i and ranknet-t2i .* different figures of CLIP \(R@1 0.400000 and 0.41"
    ):
        as_table([run(), other], "title")


def test_a_training_named_twice_is_refused():
    with pytest.raises(UserError, match="listnet-t2i and listnet-t2i are the same training with the same seed"):
        as_table([run(), run(seed=1), run(device="cuda")], "title")


def frame(clip, csls, ranker, first=0):
    """Return figures of each query: R@1 as given, rank 1 where it is hit and 3 where not."""
    columns = {"query": np.arange(first, first + len(clip))}
    for row, hits in (("clip", clip), ("csls", csls), ("ranker", ranker)):
        columns |= {f"{row}/R@1": np.asarray(hits, float), f"{row}/MeanRank": np.where(hits, 1.0, 3.0)}
    return pd.DataFrame(columns)


def test_p_values_are_over_queries_whose_seeds_are_averaged():
    rng = np.random.default_rng(0)
    clip = np.arange(300) < 120
    csls = rng.random(300) < 0.45
    rankers = [rng.random(300) < 0.6 for _ in range(2)]
    table = as_table([run(seed=k, queries=frame(clip, csls, own)) for k, own in enumerate(rankers)], "title")
    found, own = {line.row: line.against for line in table.lines}, np.mean(rankers, axis=0)
    assert (found["listnet"]["CLIP"].p, found["listnet"]["CSLS"].p) == (paired_p(own, clip), paired_p(own, csls))
    assert found["CSLS"]["CLIP"].p == paired_p(csls, clip)
    assert found["CLIP"] == {}
    assert found["listnet"]["CLIP"].p < 0.001


def test_queries_are_paired_with_themselves_alone():
    hit = np.ones(4, dtype=bool)
    one, other = (run(loss=loss, queries=frame(hit, hit, hit, k)) for k, loss in enumerate(("listnet", "ranknet")))
    with pytest.raises(UserError, match=r"listnet-t2i and ranknet-t2i were evaluated on different queries \(4 and 4\)"):
        as_table([one, other], "title")


def test_runs_without_their_queries_have_gains_and_no_p_value():
    line = as_table([run(), run(loss="ranknet", queries=frame([1], [1], [1]))], "title").lines[2]
    assert line.row == "listnet"
    assert line.against["CLIP"].gain == pytest.approx(10)
    assert np.isnan(line.against["CLIP"].p)
    assert np.isnan(line.against["CLIP"].holm)


def folder(path, seed=0, fingerprint="data", report=None, settings=None, **facts):
    """Write a finished run's config.json."""
    figures = dict.fromkeys(SHOWN, 0.5)
    test = {"direction": "t2i", **STAGE, "clip": figures, "csls": figures, "ranker": figures} | (report or {})
    chosen = scorers.parse({"seed": seed, **(settings or {})}).model_dump(mode="json")
    path.mkdir(parents=True)
    made = {"format": 3, "settings": chosen, "fingerprint": fingerprint, "test": test} | facts
    (path / "config.json").write_text(json.dumps(made))
    return path


def test_runs_of_any_scorer_and_of_the_version_before_stand_in_one_table(tmp_path):
    old = {"loss": "ranknet", "features": "concat", "ranker": "rank_xmodal"}
    folders = [
        folder(tmp_path / "ours"),
        folder(tmp_path / "vsepp", settings={"scorer": "vsepp"}),
        folder(tmp_path / "csls", settings={"scorer": "csls", "on": "vsepp"}),
        folder(tmp_path / "old", format=2, kind="rank_xmodal"),
    ]
    facts = json.loads((folders[-1] / "config.json").read_text())
    (folders[-1] / "config.json").write_text(json.dumps(facts | {"settings": old}))
    runs = from_folders(folders)
    assert [one.row for one in runs] == ["listnet", "VSE++", "CSLS on VSE++", "ranknet (concat)"]
    assert len(as_table(runs, "title").lines) == 6


def test_rows_that_join_a_report_join_the_table(tmp_path):
    more = {"rows": ["clip", "csls", "cca", "ranker"], "cca": dict.fromkeys(SHOWN, 0.7)}
    assert values(from_folders([folder(tmp_path / "run", report=more)]))["CCA"] == [0.7]


def test_the_folder_of_a_study_is_named_as_such(tmp_path):
    (tmp_path / "whitened-scenes" / "trials").mkdir(parents=True)
    with pytest.raises(UserError, match=r"whitened-scenes: is a study's, with a table of its own \(table.md\)"):
        from_folders([tmp_path / "whitened-scenes"])


def test_a_folder_that_is_no_finished_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none: holds no finished run \(no config.json\)"):
        from_folders([folder(tmp_path / "run"), tmp_path / "none"])
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"format": 3, "test": {"direction": "t2i"}}')
    with pytest.raises(UserError, match=r"other.config.json: not a whole ranker"):
        from_folders([other])
    (other / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=r"other.config.json: format None"):
        from_folders([other])
    with pytest.raises(UserError, match=r"empty: has no test report"):
        from_folders([folder(tmp_path / "empty", test={})])
    broken = folder(tmp_path / "broken")
    (broken / "test.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"test.parquet: not a readable Parquet file"):
        from_folders([broken])


def test_of_an_experiment_the_newest_of_the_same_trainings_counts(tmp_path, monkeypatch):
    kept = {
        "new": folder(tmp_path / "new"),
        "same, older": folder(tmp_path / "older"),
        "given lists": folder(tmp_path / "lists", lists_given="abc"),
        "other seed": folder(tmp_path / "seed", seed=1),
        "replaced data": folder(tmp_path / "data", fingerprint="before"),
        "no artifacts": tmp_path / "none",
    }
    runs = [{"name": k, "run_id": k * 9, "artifacts": v, "metrics": {"test/R1": 0.5}} for k, v in kept.items()]
    monkeypatch.setattr(compare, "read_runs", lambda folder, experiment: runs)
    said = []
    found = from_experiment(tmp_path, "x", said.append)
    assert [one.name.split(" (")[0] for one in found] == ["new", "given lists", "other seed"]
    assert len(as_table(found, "title").lines) == 4
    assert ["holds no config.json" in said[0], "1 runs on earlier data" in said[1]] == [True, True]


def draw(tmp_path, capsys, *folders):
    cli.main(["compare", *map(str, folders), "--plots", str(tmp_path / "plots")])
    return {path.name: path.stat().st_size for path in (tmp_path / "plots").iterdir()}, capsys.readouterr()


def test_pictures_are_drawn_of_what_there_is(tmp_path, capsys):
    made, said = draw(tmp_path, capsys, folder(tmp_path / "run"))
    assert set(made) == {"recall.png"}
    assert "rank_shifts.png is left out" in said.err
    frame([1, 0], [1, 1], [0, 1]).to_parquet(tmp_path / "run" / "test.parquet")
    made, said = draw(tmp_path, capsys, tmp_path / "run")
    assert set(made) == {"recall.png", "rank_shifts.png"}
    assert min(made.values()) > 5_000
    assert said.out.count("listnet") == 1


def test_a_picture_says_the_ceiling_and_takes_dollar_signs(tmp_path):
    from experiments.report.plots import plot_comparison, plot_recall

    odd = replace(run(loss="ranknet", loss_params={"a": "$x^{", "b": "$"}), name="odd")
    table = as_table([run(loss="ranknet"), odd], "costs $5 and $6_")
    plot_recall(table.figures(), {"t2i": 90.0}, table.title, tmp_path / "recall.png")
    plot_comparison(table.figures(), table.title, tmp_path / "comparison.png")
    assert min(path.stat().st_size for path in tmp_path.iterdir()) > 5_000
