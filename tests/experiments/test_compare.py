import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.compare import (
    SHOWN,
    as_csv,
    as_latex,
    as_markdown,
    as_tables,
    corrected,
    p_values,
    rsum,
    summarise,
    write_plots,
)
from experiments.significance import paired_p
from rank_xmodal.errors import UserError


def entry(direction="t2i", seed=0, r1=0.5, loss="listnet", on="data", per_query="missing", **settings):
    figures = dict.fromkeys(SHOWN, r1)
    return {
        "label": loss,
        "direction": direction,
        "seed": seed,
        "settings": {"loss": loss, "seed": seed, "epochs": 20, **settings},
        "on": on,
        "name": f"{loss}-{direction}",
        "rows": {"clip": dict.fromkeys(SHOWN, 0.4), "csls": dict.fromkeys(SHOWN, 0.45), "ranker": figures},
        "ceiling": 1.0,
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


def test_p_values_are_over_queries_whose_seeds_are_averaged(tmp_path):
    rng = np.random.default_rng(0)
    frames = []
    for seed in (0, 1):
        hits = {row: (rng.random(300) < share).astype(float) for row, share in (("csls", 0.45), ("ranker", 0.6))}
        clip = (np.arange(300) < 120).astype(float)
        frames.append(pd.DataFrame({"clip/R@1": clip} | {f"{row}/R@1": value for row, value in hits.items()}))
        frames[-1].to_parquet(tmp_path / f"{seed}.parquet")
    entries = [entry(seed=seed, per_query=tmp_path / f"{seed}.parquet") for seed in (0, 1)]
    found = p_values(entries)
    mean = (frames[0] + frames[1]) / 2
    clip, csls, ranker = (mean[f"{row}/R@1"].to_numpy() for row in ("clip", "csls", "ranker"))
    assert found["listnet", "t2i"] == (paired_p(ranker, clip), paired_p(ranker, csls))
    assert found["CSLS", "t2i"][0] == paired_p(csls, clip)
    assert found["listnet", "t2i"][0] < 0.001


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
