"""What a shell's runs/* gives beside runs is left out, and said."""

import pytest

from experiments.results.folders import finished_runs


@pytest.fixture
def runs(tmp_path):
    for name in ("a", "b", "study", "empty"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "study" / "trials").mkdir()
    (tmp_path / "begun" / "checkpoint").mkdir(parents=True)
    (tmp_path / "recall.png").write_bytes(b"png")
    return tmp_path


def test_what_is_no_run_is_left_out_and_said_why(runs):
    said = []
    found = finished_runs(sorted(runs.iterdir()), said.append)
    assert [path.name for path in found] == ["a", "b"]
    told = dict(line.removeprefix(f"{runs}/").split(": ", 1) for line in said)
    assert told.keys() == {"begun", "empty", "recall.png", "study"}
    assert all(line.endswith("; it is left out.") for line in told.values())
    assert "is a file" in told["recall.png"]
    assert "unfinished" in told["begun"]
    assert "table.md" in told["study"]
    assert "no config.json" in told["empty"]


def test_a_name_that_is_misspelt_and_a_list_without_any_run_stay_to_be_refused(runs):
    said = []
    assert finished_runs([runs / "a", runs / "c"], said.append) == [runs / "a", runs / "c"]
    none = [runs / "recall.png", runs / "study"]
    assert finished_runs(none, said.append) == none
    assert said == []


def test_compare_takes_a_shells_star(run, two_kinds, tmp_path, capsys):
    (tmp_path / "recall.png").write_bytes(b"png")
    run("compare", two_kinds[0] / "cca-t2i", tmp_path / "recall.png", two_kinds[0] / "csls-i2t")
    shown = capsys.readouterr()
    assert "CCA" in shown.out
    assert "recall.png: is a file and no run's folder; it is left out." in shown.err
    run("compare", tmp_path / "recall.png", code=2)
    assert "holds no finished run" in capsys.readouterr().err
