import pytest

from experiments.compare import SHOWN, as_tables, rsum, summarise
from rank_xmodal.errors import UserError


def entry(direction="t2i", seed=0, r1=0.5, loss="listnet", on="data", **settings):
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
