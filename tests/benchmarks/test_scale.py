"""Growth beside a model of cost: each stage can be measured, and the model adds up what it is told."""

import json
import sys

import pytest
import torch

from benchmarks import scale

RATES = scale.Rates(half=4e9, single=2e9, moved=1e9, hashed=1e8, stored=1e7)


@pytest.fixture
def few(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "DIM", 32)
    monkeypatch.setattr(scale, "QUERIES", 60)
    monkeypatch.setattr(scale, "BANK", 40)
    monkeypatch.setattr(scale, "EPOCHS", 1)
    return tmp_path


def test_the_model_adds_up_what_a_stage_must_do():
    cost = scale.Cost(half=8e9, single=2e9, moved=5e8, hashed=1e7, stored=1e6, sent=1e12)
    assert RATES.seconds(cost) == pytest.approx(2 + 1 + 0.5 + 0.1 + 0.1)
    assert RATES.seconds(scale.Cost()) == 0


def test_each_stage_of_a_set_can_be_measured(few):
    scale.inputs(few, 300)
    for stage in scale.STAGES:
        point = scale.one(stage, few, 300)
        assert 0 < point["seconds"] < 60, stage
        assert all(value >= 0 for value in point["cost"].values()), stage


def test_the_cost_of_mining_is_that_of_all_products(few):
    scale.inputs(few, 300)
    scale.one("import", few, 300)
    _, cost = scale.mining(few, 300)
    assert cost.half == 2 * 300 * 60 * 32


def test_operations_are_counted_two_for_a_multiplication_with_an_addition():
    a, b = torch.zeros(3, 5), torch.zeros(5, 7)
    assert scale.flops_of(lambda: a @ b) == 2 * 3 * 5 * 7
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_table_says_how_seconds_grow_and_how_far_the_model_is():
    point = {"stage": "import", "seconds": 2.0, "cpu": 1.0, "own": 5.0, "mapped": 6.0, "cost": {"sent": 0.0}}
    lines = scale.table(
        [
            {**point, "items": 10, "modelled": 1.0, "ratio": 2.0},
            {**point, "items": 100, "seconds": 20.0, "modelled": 5.0, "ratio": 4.0, "cost": {"sent": 2e6}},
        ]
    ).splitlines()
    assert lines[2] == "| import | 10 | 2.000 | 1.00 | 5 | 5 | 6 | 1.000 | 2.0 |  |  |"
    assert lines[3] == "| import | 100 | 20.000 | 1.00 | 5 | 5 | 6 | 5.000 | 4.0 | 1.00 | 2.0 |"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_point_in_a_process_of_its_own_has_its_peaks(tmp_path):
    point = scale.apart("embed's driver", tmp_path, 5_000, RATES)
    assert json.loads((tmp_path / "point.json").read_text())["seconds"] == point["seconds"]
    assert point["mapped"] > 1
    assert point["ratio"] == point["seconds"] / point["modelled"]
