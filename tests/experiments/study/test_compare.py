import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.study import compare
from experiments.study.compare import (
    SHOWN,
    as_csv,
    as_latex,
    as_markdown,
    as_tables,
    corrected,
    from_experiment,
    from_folders,
    p_values,
    rank_shifts,
    rsum,
    summarise,
    write_plots,
)
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.significance import paired_p
from rank_xmodal.scorers import settings as schema

STAGE = {"split": "test", "candidates": 51, "gallery": 1_000, "queries": 300}


def entry(direction="t2i", seed=0, r1=0.5, loss="listnet", on="data", per_query="missing", **settings):
    figures = dict.fromkeys(SHOWN, r1)
    return {
        "label": loss,
        "direction": direction,
        "seed": seed,
        "settings": {"loss": loss, "seed": seed, "epochs": 20, **settings},
        "on": on,
        "name": f"{loss}-{direction}" + (f"-{seed}" if seed else ""),
        "rows": {"clip": dict.fromkeys(SHOWN, 0.4), "csls": dict.fromkeys(SHOWN, 0.45), "ranker": figures},
        "ceiling": 1.0,
        "stage": STAGE,
        "per_query": Path(per_query),
    }


def test_seeds_are_gathered_and_clip_and_csls_come_first():
    summary = summarise([entry(seed=1, r1=0.6), entry(seed=0, r1=0.5), entry(loss="lambdarank")])
    assert list(summary) == ["CLIP", "CSLS", "lambdarank", "listnet"]
    assert summary["listnet"]["t2i"]["R@1"] == [0.5, 0.6]
    assert summary["CLIP"]["t2i"]["R@1"] == [0.4]


def test_runs_with_other_settings_are_rows_of_their_own():
    summary = summarise([entry(), entry(seed=1), entry(epochs=30, r1=0.7)])
    assert summary["listnet epochs=20"]["t2i"]["R@1"] == [0.5, 0.5]
    assert summary["listnet epochs=30"]["t2i"]["R@1"] == [0.7]


def test_rsum_adds_six_figures_and_needs_both_directions():
    summary = summarise([entry(), entry("i2t", r1=0.6), entry(loss="ranknet")])
    assert rsum(summary["listnet"]) == pytest.approx(3 * 50 + 3 * 60)
    assert rsum(summary["ranknet"]) is None
    assert len(as_tables([entry(), entry("i2t")], "title")) == 2


def test_runs_on_different_data_are_refused():
    with pytest.raises(UserError, match=r"listnet-t2i and ranknet-t2i .* can't be"):
        summarise([entry(), entry(loss="ranknet", on="other")])


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("split", "val", "split, test and val"),
        ("candidates", 101, "depth of CLIP's list, 51 and 101"),
        ("gallery", 5_000, "gallery, 1000 and 5000"),
        ("queries", 299, "number of queries, 300 and 299"),
    ],
)
def test_runs_evaluated_in_another_way_are_refused(key, value, what):
    other = entry(loss="ranknet") | {"stage": STAGE | {key: value}}
    with pytest.raises(UserError, match=f"listnet-t2i and ranknet-t2i were evaluated with a different {what};"):
        as_csv([entry(), other])
    summarise([entry(), entry("i2t") | {"stage": STAGE | {"gallery": 5_000}}])  # directions have galleries of their own


def test_runs_that_disagree_about_clip_are_refused():
    other = entry(loss="ranknet")
    other["rows"]["clip"] = {**other["rows"]["clip"], "R@1": 0.41}
    with pytest.raises(UserError, match="listnet-t2i and ranknet-t2i have different figures of CLIP"):
        summarise([entry(), other])


def test_a_training_named_twice_is_refused():
    with pytest.raises(UserError, match="listnet-t2i and listnet-t2i are the same training with the same seed"):
        summarise([entry(), entry(seed=1), entry()])


def test_settings_that_differ_late_in_a_long_value_are_not_averaged_as_seeds():
    long = ["concat", "product", "cosine"]
    summary = summarise([entry(blocks=long), entry(seed=1, blocks=[*long[:2], "hubness"], r1=0.9)])
    assert len(summary) == 4
    assert all(len(row["t2i"]["R@1"]) == 1 for row in summary.values())


def test_csls_is_meaned_over_the_query_banks(tmp_path):
    """A run that was trained again on train and val has a larger bank, and another row CSLS, than one that was not."""
    hits = {0: (np.arange(40) < 20), 1: (np.arange(40) < 24), 2: (np.arange(40) < 24)}
    entries = []
    for seed, csls in hits.items():
        written = write_queries(tmp_path / f"{seed}.parquet", np.arange(40) < 16, csls, np.arange(40) < 30)
        entries.append(entry(seed=seed, per_query=written))
        entries[-1]["rows"]["csls"] = dict.fromkeys(SHOWN, csls.mean())
    for order in (entries, entries[::-1]):
        assert summarise(order)["CSLS"]["t2i"]["R@1"] == [0.5, 0.6]
        found = p_values(order)
        assert found["CSLS", "t2i"][0] == paired_p((hits[0] + 1.0 * hits[1]) / 2, 1.0 * (np.arange(40) < 16))
    assert "2 different query banks" in as_markdown(entries, "title")


def write_queries(path, clip, csls, ranker, first=0):
    """Write a run's figures of each query: R@1 as given, rank 1 where it is hit and 3 where not."""
    columns = {"query": np.arange(first, first + len(clip))}
    for row, hits in (("clip", clip), ("csls", csls), ("ranker", ranker)):
        columns |= {f"{row}/R@1": np.asarray(hits, float), f"{row}/MeanRank": np.where(hits, 1.0, 3.0)}
    pd.DataFrame(columns).to_parquet(path)
    return path


def test_p_values_are_over_queries_whose_seeds_are_averaged(tmp_path):
    rng = np.random.default_rng(0)
    clip = np.arange(300) < 120
    csls = rng.random(300) < 0.45
    rankers = [rng.random(300) < 0.6 for _ in range(2)]
    entries = [
        entry(seed=seed, per_query=write_queries(tmp_path / f"{seed}.parquet", clip, csls, ranker))
        for seed, ranker in enumerate(rankers)
    ]
    found = p_values(entries)
    ranker = np.mean(rankers, axis=0)
    assert found["listnet", "t2i"] == (paired_p(ranker, clip), paired_p(ranker, csls))
    assert found["CSLS", "t2i"][0] == paired_p(csls, clip)
    assert found["listnet", "t2i"][0] < 0.001


def test_queries_are_paired_with_themselves_alone(tmp_path):
    hit = np.ones(4, dtype=bool)
    one, other = (write_queries(tmp_path / f"{k}.parquet", hit, hit, hit, first=k) for k in (0, 1))
    entries = [entry(per_query=one), entry(loss="ranknet", per_query=other)]
    for function in (p_values, rank_shifts):
        with pytest.raises(UserError, match=r"0.parquet and .*1.parquet: hold different queries"):
            function(entries)
    other.write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"1.parquet: not a readable Parquet file"):
        p_values(entries)


def test_rank_shifts_are_ranks_gained_over_clip(tmp_path):
    path = write_queries(tmp_path / "q.parquet", [1, 0, 0, 1], [1, 1, 0, 0], [0, 1, 0, 1])
    found = rank_shifts([entry(per_query=path), entry(seed=1, per_query=path)])["t2i"]
    assert {row: shifts.tolist() for row, shifts in found.items()} == {
        "CSLS": [0, 2, 0, -2],
        "listnet": [-2, 2, 0, 0] * 2,
    }


def test_runs_without_their_queries_have_no_p_value():
    assert p_values([entry()]) == {}
    table = as_tables([entry()], "title")[0]
    assert [list(column.cells) for column in table.columns[-2:]] == [["", "", ""], ["", "", ""]]


def test_csv_markdown_and_latex_hold_the_same_figures_and_escape_labels():
    entries = [entry(seed=1, r1=0.6), entry(seed=0, r1=0.5), entry("i2t", loss="a_b|c & 50%", r1=0.7)]
    table = pd.read_csv(io.StringIO(as_csv(entries)))
    mine = table[(table["direction"] == "t2i") & (table["row"] == "listnet")].iloc[0]
    assert mine["R@1"] == pytest.approx(55)
    assert mine["R@1 sd"] == pytest.approx(100 * np.std([0.5, 0.6], ddof=1))
    assert mine["seeds"] == 2
    markdown, latex = as_markdown(entries, "title"), as_latex(entries, "title")
    for text in (markdown, latex):
        assert "55.0" in text
        assert "7.07" in text
    assert r"a\_b\|c \& 50%" in markdown
    assert "a\\_b" in latex
    assert "\\& 50\\%" in latex
    for text in (markdown, latex):
        assert "standard deviation (n - 1) over 2 seeds" in text


def test_latex_needs_no_font_encoding_of_its_own():
    assert "\\textquotedbl" not in as_latex([entry()], 'a "quoted" name')
    assert "a ''quoted'' name" in as_latex([entry()], 'a "quoted" name')


def config(folder, seed=0, fingerprint="data", **facts):
    """Write a finished run's config.json."""
    figures = dict.fromkeys(SHOWN, 0.5)
    report = {"direction": "t2i", **STAGE, "ceiling": 1.0, "clip": figures, "csls": figures, "ranker": figures}
    plan = schema.parse({"seed": seed}).model_dump(mode="json")
    folder.mkdir(parents=True)
    made = {"settings": plan, "fingerprint": fingerprint, "test": report} | facts
    (folder / "config.json").write_text(json.dumps(made))
    return folder


def test_a_config_that_is_no_runs_is_named(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "bert", "test": {"direction": "t2i"}}')
    with pytest.raises(UserError, match=r"other.config.json: is no finished run's, .*'settings'"):
        from_folders([config(tmp_path / "run"), other])


def test_of_an_experiment_the_newest_of_the_same_trainings_counts(tmp_path, monkeypatch):
    kept = {
        "new": config(tmp_path / "new"),
        "same, older": config(tmp_path / "older"),
        "given lists": config(tmp_path / "lists", lists_given="abc"),
        "other seed": config(tmp_path / "seed", seed=1),
        "replaced data": config(tmp_path / "data", fingerprint="before"),
        "no artifacts": tmp_path / "none",
    }
    runs = [{"name": k, "run_id": k * 9, "artifacts": v, "metrics": {"test/R1": 0.5}} for k, v in kept.items()]
    monkeypatch.setattr(compare, "read_runs", lambda folder, experiment: runs)
    said = []
    found = from_experiment(tmp_path, "x", said.append)
    assert [entry["name"].split(" (")[0] for entry in found] == ["new", "given lists", "other seed"]
    assert len(summarise(found)) == 4
    assert ["holds no config.json" in said[0], "1 runs on earlier data" in said[1]] == [True, True]


def test_all_p_values_of_a_comparison_are_one_family():
    found = corrected({("a", "t2i"): (0.01, 0.04), ("b", "i2t"): (0.03, float("nan"))})
    assert found["a", "t2i"] == pytest.approx((0.03, 0.06))
    assert found["b", "i2t"][0] == pytest.approx(0.06)
    assert np.isnan(found["b", "i2t"][1])


def test_pictures_are_drawn_of_what_there_is(tmp_path):
    said = []
    made = write_plots([entry(), entry("i2t", r1=0.6)], "title", tmp_path, said.append)
    assert [path.name for path in made] == ["recall.png"]
    assert "left out" in said[0]
    assert made[0].stat().st_size > 5_000


def test_a_picture_of_recall_says_the_ceiling_and_takes_dollar_signs(tmp_path):
    entries = [entry() | {"ceiling": 0.9}, entry(loss="ranknet", loss_params={"a": "$x^{", "b": "$"})]
    (made,) = write_plots(entries, "costs $5 and $6_", tmp_path, lambda line: None)
    assert made.stat().st_size > 5_000
