"""The figures of the result table: means, spreads, gains and tests."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from experiments.study.table import Outcome, Table, shifts_of, tabulate
from rank_xmodal.evaluation.judging import SHOWN
from rank_xmodal.evaluation.significance import holm, paired_p


def outcome(
    row="one", direction="t2i", hits=0.6, csls=0.45, protocol="gallery", on="", queries=200, seed=None, **report
):
    """Return an outcome over some queries, of which CLIP hits the first 40 %."""
    rng = np.random.default_rng(0 if seed is None else seed)
    own = (rng.random(queries) < hits).astype(float) if np.isscalar(hits) else np.asarray(hits, float)
    values = {"clip": np.arange(queries) < 0.4 * queries, "csls": np.arange(queries) < csls * queries, "ranker": own}
    frame = pd.DataFrame({"query": np.arange(queries)})
    for source, hit in values.items():
        frame[f"{source}/R@1"], frame[f"{source}/MeanRank"] = np.asarray(hit, float), np.where(hit, 1.0, 3.0)
    means = {source: dict.fromkeys(SHOWN, float(np.mean(hit))) for source, hit in values.items()}
    said = {"split": "test", "queries": queries, "candidates": 51, "gallery": 1_000, "ceiling": 0.95}
    return Outcome(row, direction, protocol, {**said, "rows": [*means], **means, **report}, frame, {"seed": seed}, on)


def lines(outcomes, against=("CLIP", "CSLS"), **named):
    table = tabulate(outcomes, Table("title", against=against), **named)
    return {(line.row, line.of[1]): line for line in table.lines}


def test_the_table_holds_mean_spread_gain_and_p():
    one, two = outcome(hits=0.6, seed=0), outcome(hits=0.7, seed=1)
    line = lines([one, two])["one", "t2i"]
    means = [100 * each.queries["ranker/R@1"].mean() for each in (one, two)]
    assert line.figure("R@1").mean == pytest.approx(np.mean(means))
    assert line.figure("R@1").sd == pytest.approx(np.std(means, ddof=1))
    assert line.against["CLIP"].gain == pytest.approx(np.mean(means) - 40)
    both = (one.queries["ranker/R@1"] + two.queries["ranker/R@1"]) / 2
    assert line.against["CLIP"].p == paired_p(both, one.queries["clip/R@1"])
    difference = both - one.queries["clip/R@1"]
    assert line.against["CLIP"].error == pytest.approx(100 * difference.std(ddof=1) / np.sqrt(200))
    assert line.figure("MeanRank").mean == pytest.approx(np.mean(means) / 100), "not in %"


def test_clip_and_csls_come_first_and_rows_in_the_order_of_the_outcomes():
    found = lines([outcome("b"), outcome("a"), outcome("b", "i2t"), outcome("a", "i2t")])
    assert list(found) == [(row, way) for way in ("t2i", "i2t") for row in ("CLIP", "CSLS", "b", "a")]


def test_each_pair_is_tested_once_on_the_lower_line():
    found = lines([outcome("one", seed=1), outcome("two", seed=2)], against=("CLIP", "CSLS", "two", "one"))
    tested = {row: [*line.against] for (row, _), line in found.items()}
    assert tested == {"CLIP": [], "CSLS": ["CLIP"], "one": ["CLIP", "CSLS"], "two": ["CLIP", "CSLS", "one"]}
    found = lines([outcome("full"), outcome("less", seed=2)], against=("full",))
    assert {row: [*line.against] for (row, _), line in found.items()} == {
        "CLIP": ["full"], "CSLS": ["full"], "full": [], "less": ["full"],
    }  # fmt: skip


def test_all_p_values_of_a_protocol_are_one_family():
    outcomes = [outcome(way, way, hits, protocol=p, seed=k) for k, (way, hits, p) in enumerate(
        [("t2i", 0.5, "gallery"), ("i2t", 0.55, "gallery"), ("t2i", 0.45, "clean"), ("i2t", 0.5, "clean")]
    )]  # fmt: skip
    table = tabulate(outcomes, Table("title", against=("CLIP", "CSLS")))
    for protocol in ("gallery", "clean"):
        tests = [one for line in table.lines if line.of[0] == protocol for one in line.against.values()]
        assert len(tests) == 6
        assert [one.holm for one in tests] == list(holm(np.array([one.p for one in tests])))
    assert "Holm-corrected for all p of the comparison" in table.caption("gallery", "t2i")
    alone = tabulate(outcomes[:1], Table("title", against=("CLIP",)))
    assert "Holm" in alone.caption("gallery", "t2i"), "CSLS is tested, too"


def test_csls_is_meaned_over_the_query_banks_and_each_row_meets_its_own():
    """A scorer that was fitted again on train and val has a larger bank, and another CSLS, than one that was not."""
    outcomes = [
        outcome(seed=0, csls=0.5),
        outcome(seed=1, csls=0.6),
        outcome(seed=2, csls=0.6),
        outcome("two", csls=0.6),
    ]
    for order in (outcomes, outcomes[::-1]):
        table = tabulate(order, Table("title", against=("CLIP", "CSLS")))
        found = {line.row: line for line in table.lines}
        assert found["CSLS"].figure("R@1").mean == pytest.approx(55)
        assert len(found["CLIP"].outcomes) == 1
        assert found["CSLS"].against["CLIP"].gain == pytest.approx(15)
        assert found["two"].against["CSLS"].gain == found["two"].figure("R@1").mean - 60
        assert "CSLS: mean ± standard deviation over 2 different query banks." in table.caption("gallery", "t2i")
        assert "over 1 or 3 seeds" in table.caption("gallery", "t2i")


def test_what_is_not_trained_counts_once_a_permutation():
    outcomes = [outcome(row, on=f"permutation {k}", seed=k) for row in ("one", "two") for k in (0, 1)]
    table = tabulate(outcomes, Table("title"))
    assert [len(line.outcomes) for line in table.lines] == [2, 2, 2, 2]
    assert "over 2 permutations" in table.caption("gallery", "t2i")
    assert "query banks" not in table.caption("gallery", "t2i")


def test_queries_are_paired_by_their_row():
    shuffled = outcome("two", hits=[0, 1, 1, 1], queries=4)
    shuffled = replace(shuffled, queries=shuffled.queries.iloc[::-1])
    found = lines([outcome("one", hits=[0, 1, 1, 0], queries=4), shuffled], against=("one",))["two", "t2i"]
    assert found.against["one"].gain == pytest.approx(25)
    assert found.against["one"].error == pytest.approx(25)


def test_rsum_adds_six_figures_and_needs_both_directions():
    found = lines(
        [outcome(hits=[1, 0], queries=2), outcome("one", "i2t", hits=[1, 1], queries=2), outcome("two", queries=2)]
    )
    assert found["one", "t2i"].rsum == found["one", "i2t"].rsum == pytest.approx(3 * 50 + 3 * 100)
    assert np.isnan(found["two", "t2i"].rsum)


def test_published_figures_stand_beside():
    found = lines([outcome()], published={"one": {"t2i": (1.0, 2.0, 3.0), "i2t": (4.0, 5.0, 6.0)}})
    assert found["one", "t2i"].published == (1.0, 2.0, 3.0)
    assert not found["CLIP", "t2i"].published


def test_the_caption_says_what_was_judged():
    table = tabulate([outcome(), outcome(protocol="clean")], Table("title", note="The end."))
    assert "test: 200 queries, CLIP's top 51 of a gallery of 1,000 reordered" in table.caption("gallery", "t2i")
    assert "ceiling 95.00." in table.caption("gallery", "t2i")
    assert "mined lists of 51" in table.caption("clean", "t2i")
    assert table.caption("clean", "t2i").endswith("The end.")
    assert "p: " not in table.caption("clean", "t2i")
    assert table.heading("clean", "t2i") == "title, protocol clean: text to image"


def test_rank_shifts_are_ranks_gained_over_clip():
    one, two = outcome(hits=[0, 1, 0, 1], queries=4), outcome(hits=[0, 1, 0, 1], queries=4)
    for each in (one, two):
        each.queries["clip/MeanRank"] = [1.0, 3, 3, 1]
        each.queries["csls/MeanRank"] = [1.0, 1, 3, 3]
    found = shifts_of(tabulate([one, two], Table("title")).lines)
    assert {row: shifts.tolist() for row, shifts in found.items()} == {"CSLS": [0, 2, 0, -2], "one": [-2, 2, 0, 0] * 2}
