"""Where a chart's marks stand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.report.charts import Scale, hue, series, shifts, spread


def test_a_scale_is_a_straight_line_either_way_up():
    assert [Scale(0, 100, 226, 26)(v) for v in (0, 50, 100)] == [226, 126, 26]
    assert Scale(3, 3, 10, 90)(3) == 10, "one value alone has a place too"


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_a_few_round_numbers_within_the_scale(low, size):
    size = max(size, 1e-4 * abs(low))
    ticks = Scale(low, low + size, 0, 100).ticks()
    values = [value for value, _ in ticks]
    assert 2 <= len(values) <= 6
    assert len({label for _, label in ticks}) == len(ticks)
    assert values == sorted(values)
    assert all(low - 1e-3 * size <= value <= low + 1.001 * size for value in values)
    if len(values) > 2:
        steps = np.diff(values)
        assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-3, abs=1e-9 * max(map(abs, values)))


def test_labels_of_ticks_have_the_same_decimals():
    assert Scale(0.75, 1.25, 0, 1).ticks() == [(0.8, "0.8"), (1.0, "1.0"), (1.2, "1.2")]
    assert [label for _, label in Scale(0, 100, 0, 1).ticks()] == ["0", "25", "50", "75", "100"]
    assert [label for _, label in Scale(0, 4e-6, 0, 1).ticks()] == ["0", "1e-06", "2e-06", "3e-06", "4e-06"]


@pytest.mark.parametrize("values", [[0.5, 0.7, 0.6], [0.5, 0.5], [0.0, 0.0], [-3.0, -3.0]])
def test_a_scale_around_values_has_room_on_both_sides(values):
    scale = Scale.around(values, 226, 34)
    assert scale.low < min(values)
    assert max(values) < scale.high
    assert len(scale.ticks()) > 1


def test_labels_at_one_height_are_moved_apart():
    y = Scale(0, 100, 200, 0)
    assert spread(y, [50, 80]) == [100, 40]
    assert spread(y, [50, 51]) == [100, 86]
    assert spread(y, [50, 49]) == spread(y, [50, 50]) == [100, 114]


def test_a_series_leaves_out_what_has_no_value_and_needs_two_points():
    history = [{"epoch": 0, "val": 0.5}, {"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": math.nan, "val": 0.25}]
    assert series(history, "val", 100) == [(0, 50), (2, 25)]
    assert series(history, "loss") == []
    assert series([], "loss") == []


def test_every_query_is_in_one_column_of_shifts():
    rose = np.array([-400, -11, -10, -4, -3, -2, -1, 0, 0, 1, 2, 3, 4, 10, 11, np.inf])
    columns = shifts(rose)
    assert [count for _, _, count in columns] == [2, 2, 2, 1, 2, 1, 2, 2, 2]
    assert [kind for kind, _, _ in columns] == ["fell"] * 4 + ["stayed"] + ["rose"] * 4


def test_any_number_of_rows_has_a_hue_of_its_own_and_none_is_green():
    hues = [hue(place) for place in range(1, 60)]
    assert len(set(hues)) == len(hues)
    assert not [h for h in hues if 100 < h < 190], "green is the run's"
    assert min(np.diff(sorted(hues[:5]))) > 20
