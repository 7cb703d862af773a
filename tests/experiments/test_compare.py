from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.compare import SHOWN, as_tables, p_values, rsum, summarise
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
