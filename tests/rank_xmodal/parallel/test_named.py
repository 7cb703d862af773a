"""From a name to an executor, or to what is wrong with it."""

import sys

import pytest

from experiments.cli.main import main
from rank_xmodal.errors import UserError
from rank_xmodal.parallel import executor_named


@pytest.mark.parametrize("name", ["0", "-1", "1000", "two", "", "1.5", "Ray"])
def test_names_that_are_none(name):
    with pytest.raises(UserError, match="--parallel"):
        executor_named(name)


def test_ray_that_cannot_be_reached(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match=r"RAY_ADDRESS=127.0.0.1:1"):
        executor_named("ray")


def test_ray_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'rank-xmodal\[ray\]'"):
        executor_named("ray")


def test_what_a_gpu_may_ask_for_is_there_on_every_machine_that_has_one():
    pytest.importorskip("ray")
    from rank_xmodal.parallel.on_ray import _cores_for_a_gpu

    def node(cpus, gpus, alive=True):
        return {"Alive": alive, "Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {})}}

    assert _cores_for_a_gpu([node(64, 0), node(8.0, 1.0), node(16, 4)]) == 4
    assert _cores_for_a_gpu([node(64, 0), node(1, 2), node(16, 1, alive=False)]) == 1
    assert _cores_for_a_gpu([node(4, 0)]) == 1


EMBED = ["embed", "--dataset", "folder", "--root", "none", "--model", "m", "--pretrained", "p", "--out", "none"]


@pytest.mark.parametrize(
    "verb",
    [
        EMBED,
        ["mine", "none", "--direction", "t2i"],
        ["evaluate", "none", "--data", "none"],
        ["study", "losses", "--data", "none"],
        ["grid", "none.yaml", "--data", "none"],
    ],
    ids=lambda verb: verb[0],
)
def test_who_is_to_work_is_asked_for_first(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*verb, "--parallel", "two"])
    assert stop.value.code == 2
    assert "--parallel two: must be a number of processes, 1 to 256, or ray." in capsys.readouterr().err
