"""From a name to an executor, or to what is wrong with it."""

import sys

import pytest

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
