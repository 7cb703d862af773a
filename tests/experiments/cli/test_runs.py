"""What `train --help` and `scorers` tell of what can be set."""

import pytest

from experiments.cli import runs
from rank_xmodal import losses, scorers


def test_the_help_names_every_loss_and_where_settings_are_listed(run, capsys):
    assert set(runs.LOSSES) == set(losses.names())
    run("train", "--help")
    shown = capsys.readouterr().out
    for name in losses.names():
        assert name in shown
    assert "rank-xmodal scorers NAME" in " ".join(shown.split())


@pytest.mark.parametrize("name", ["context_aware", "vsepp"])
def test_of_one_scorer_every_setting_is_listed_with_its_default(run, capsys, name):
    run("scorers", name)
    first, *lines = capsys.readouterr().out.splitlines()
    settings = scorers.get(name).settings
    assert first.startswith(f"{name} ")
    listed = {line.split()[0]: line.split()[1] for line in lines}
    assert set(type(settings).model_fields) - {"scorer"} <= set(listed)
    assert listed["lr"] == str(settings.lr)
    assert listed["seed"] == "0"
    assert ("loss_params.temperature" in listed) == (name == "context_aware")


def test_all_scorers_are_listed_and_one_that_is_misspelt_is_told_the_nearest(run, capsys):
    run("scorers")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == scorers.names()
    run("scorers", "vsep", code=2)
    assert "Did you mean 'vsepp'?" in capsys.readouterr().err
