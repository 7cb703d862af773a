"""What the benchmarks report: medians of ratios, what is missed, processes that fail, and two sides alike."""

import functools
import sys
import time

import numpy as np
import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import growth, measure, training_step
from benchmarks.corpus import embedding_set, unit_rows
from rank_xmodal.errors import UserError
from rank_xmodal.scorers.allrank import AllRankRanker

sleeping = functools.partial(functools.partial, time.sleep)  # a function that returns one


def test_a_ratio_is_the_median_over_pairs_with_its_range():
    row = measure.row("work", "peer", [(1.0, 3.0), (2.0, 4.0), (1.0, 10.0)], 3.0)
    assert (row.ours, row.theirs) == (1.0, 4.0)
    assert (row.ratio, row.low, row.high) == (3.0, 2.0, 10.0)
    assert row.met
    assert not measure.row("work", "peer", [(1.0, 2.9)], 3.0).met
    assert measure.row("work", "peer", [(1.0, 0.1)], None).met


def test_the_two_sides_alternate_and_take_turns_at_being_first():
    calls = []
    pairs = measure.alternate(lambda: calls.append("a"), lambda: calls.append("b"), times=1, repeats=3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert len(pairs) == 3


def test_sides_apart_are_timed_in_processes_of_their_own():
    pairs = measure.alternate_apart((sleeping, (0.02,)), (sleeping, (0.08,)), times=2, repeats=3)
    assert len(pairs) == 3
    for ours, theirs in pairs:
        assert 0.02 <= ours < 0.07
        assert 0.08 <= theirs < 0.3


def test_a_side_that_fails_ends_the_comparison(capfd):
    with pytest.raises(UserError, match="has ended; its error stands above"):
        measure.alternate_apart((sleeping, ("soon",)), (sleeping, (0.0,)))
    assert "TypeError" in capfd.readouterr().err


def test_a_process_is_timed_and_its_memory_counted():
    seconds, small = measure.process([sys.executable, "-c", "import time; time.sleep(0.3)"])
    _, large = measure.process([sys.executable, "-c", "x = bytearray(200_000_000)"])
    assert 0.3 <= seconds < 30
    assert 180 < large - small < 260


def test_a_process_that_fails_says_why():
    with pytest.raises(UserError, match=r"exit 3[\s\S]*no lists today"):
        measure.process([sys.executable, "-c", "import sys; print('no lists today'); sys.exit(3)"])


def test_the_table_names_what_is_missed():
    lines = [
        measure.row("fast work", "peer", [(0.01, 0.05)], 3.0, limit=0.004).as_dict(),
        measure.row("slow work", "peer", [(20.0, 30.0)], 3.0).as_dict(),
    ]
    curve = {"curve": "work", "sizes": [10, 20], "seconds": [1.0, 2.0], "megabytes": [5.0, 6.0], "exponent": 1.0}
    page = bench.table({"machine": bench.machine(), "rows": {"training_step": lines, "growth": [curve]}})
    assert "| work | 10, 20 | 1.0, 2.0 | 5, 6 | 1.00 |" in page
    assert "| fast work | peer | 10.0 ms | 50.0 ms | 5.00 | 5.00 to 5.00 | 3.00 | 4.0 ms |" in page
    assert "| slow work | peer | 20.0 s | 30.0 s | 1.50 | 1.50 to 1.50 | 3.00, **missed** |  |" in page


def test_growth_is_drawn(tmp_path):
    curve = {"curve": "work", "sizes": [10, 20], "seconds": [1.0, 2.0], "megabytes": [5.0, 6.0], "exponent": 1.0}
    growth.plot([curve, curve], tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 10_000


def test_a_point_of_each_curve_can_be_measured(monkeypatch):
    monkeypatch.setattr(growth, "DIM", 16)
    for name in growth.CURVES:
        assert 0 < growth.one(name, 60) < 60


def test_drawn_rows_have_length_one_and_captions_are_near_their_images():
    rows = unit_rows(9_000, 16, 0).astype(np.float64)
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 2e-3
    data = embedding_set(50, captions=3, dim=64)
    cosine = data.text_emb.astype(np.float64) @ data.image_emb.astype(np.float64).T
    owner = data.relevance["image"].to_numpy()
    assert (cosine.argmax(axis=1) == owner).mean() > 0.9


def test_both_sides_of_a_step_train_the_same_sizes_on_the_same_lists():
    pytest.importorskip("allrank")
    tensors, spread = training_step.lists_of(embedding_set(110, captions=5, dim=32))
    assert tensors.rows.shape[1] == 51
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    ours, theirs = (side(tensors, spread, "listnet") for side in (training_step.ours, training_step.theirs))
    ours()
    theirs()
    torch.set_num_threads(before)
    sizes = {
        kind: sum(p.numel() for p in training_step.model_of(kind, tensors, spread).parameters())
        for kind in ("rank_xmodal", "allrank")
    }
    # Ours has one bias in the input layer too, and a norm after the encoder as allRank has.
    assert sizes["rank_xmodal"] == pytest.approx(sizes["allrank"], rel=0.01)
    assert isinstance(training_step.model_of("allrank", tensors, spread), AllRankRanker)


def test_the_table_is_put_between_its_marks_and_prose_stays(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(f"before\n{bench.BEGIN}\n\nold\n{bench.END}\n\nafter\n")
    for _ in range(2):
        bench.write_page(page, "new\n")
        assert page.read_text() == f"before\n{bench.BEGIN}\n\nnew\n\n{bench.END}\n\nafter\n"
    written = (bench.FOLDER / "README.md").read_text()
    assert written.count(bench.BEGIN) == written.count(bench.END) == 1
