"""Damaged and older run folders: a message, never a traceback."""

import json

import pytest

from rank_xmodal import scorers
from rank_xmodal.errors import UserError
from rank_xmodal.scorers.facts import read_facts
from rank_xmodal.scorers.folder import load, save


@pytest.fixture
def run(corpus, tmp_path):
    save(tmp_path, corpus.train(corpus.data, corpus.lists, corpus.chosen(epochs=1)), {"direction": "t2i"}, "card")
    return tmp_path


def change(run, **values):
    facts = json.loads((run / "config.json").read_text())
    facts.update(values)
    (run / "config.json").write_text(json.dumps({k: v for k, v in facts.items() if v != "gone"}))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"format": 99}, "format 99, expected 3"),
        ({"direction": "gone"}, "not a whole ranker"),
        ({"direction": "sideways"}, "not a whole ranker .direction"),
        ({"base": "gone"}, "not a whole ranker"),
        ({"model": {}}, "not a whole ranker"),
        ({"calibration": {"odd": 1}}, "not a whole ranker"),
        ({"settings": {"scorer": "nobody"}}, "no such scorer"),
    ],
)
def test_a_config_that_does_not_fit_is_told(run, values, said):
    change(run, **values)
    with pytest.raises(UserError, match=said):
        load(run)


def test_a_config_that_is_a_list_is_told(run):
    (run / "config.json").write_text("[]")
    with pytest.raises(UserError, match="holds a list, not a run's facts"):
        load(run)


def test_a_run_of_the_version_before_is_understood(run):
    facts = read_facts(run)
    old = {k: v for k, v in facts["settings"].items() if k not in ("scorer", "on")}
    change(run, format=2, kind="rank_xmodal", scorer="gone", base="gone", settings={**old, "ranker": "rank_xmodal"})
    assert read_facts(run)["settings"] == facts["settings"]
    stack, _ = load(run)
    assert stack.scorer.settings == scorers.parse(facts["settings"])
