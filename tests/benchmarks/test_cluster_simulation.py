"""The simulated cluster: what is known without it, and what must never be."""

import dataclasses
import math
import statistics

import pytest

from benchmarks.cluster_simulation import Job, simulate


@pytest.mark.parametrize(("parts", "workers"), [(1, 1), (12, 4), (13, 4), (3, 8), (1_000, 7)])
def test_equal_parts_without_failures_take_as_many_rounds_as_there_must_be(parts, workers):
    found = simulate(Job(parts, workers, seconds=90.0))
    assert found.hours == math.ceil(parts / workers) * 90 / 3600
    assert (found.lost, found.failures, found.most) == (0.0, 0, 1)


def test_a_driver_that_writes_more_slowly_than_the_workers_compute_sets_the_pace():
    found = simulate(Job(500, 64, seconds=10.0, writing=1.0))
    assert found.hours * 3600 == pytest.approx(10 + 500)
    assert found.driver == pytest.approx(500 / 510)


def test_seeded_runs_repeat():
    job = Job(300, 8, seconds=60.0, spread=0.5, mtbf=1_800.0, per_machine=4)
    assert simulate(job, 3) == simulate(job, 3)
    assert simulate(job, 3) != simulate(job, 4)


def test_more_failures_never_make_it_faster_on_average():
    hours, lost = [], []
    for mtbf in (math.inf, 40_000.0, 10_000.0, 2_500.0, 600.0):
        found = [simulate(Job(400, 8, 60.0, 0.4, 2, mtbf, 300.0, 0.5), seed) for seed in range(12)]
        hours.append(statistics.mean(one.hours for one in found))
        lost.append(statistics.mean(one.lost for one in found))
    assert hours == sorted(hours)
    assert lost == sorted(lost)
    assert lost[0] == 0 < lost[-1] < 1


def test_every_part_is_written_however_often_machines_fail():
    found = simulate(Job(50, 4, 60.0, 0.2, 1, mtbf=60.0, replaced=30.0), seed=1)
    assert found.failures > 20
    assert found.hours > simulate(Job(50, 4, 60.0, 0.2), seed=1).hours
    assert found.given_up == (found.most > 5)


def test_a_machine_that_fails_takes_all_its_workers():
    one, four = (
        statistics.mean(
            simulate(dataclasses.replace(Job(400, 8, 60.0, mtbf=5_000.0), per_machine=size), seed).lost
            for seed in range(12)
        )
        for size in (1, 4)
    )
    # A machine of four fails as often as a machine of one, and costs four times as much: the share is the same.
    assert one > 0
    assert four == pytest.approx(one, rel=0.6)


@pytest.mark.parametrize("wrong", [{"parts": 0}, {"workers": 0}, {"seconds": 0.0}, {"mtbf": 0.0}, {"writing": -1.0}])
def test_a_job_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="Job"):
        simulate(Job(**{"parts": 2, "workers": 2, "seconds": 1.0, **wrong}))
