import os
from pathlib import Path

import pytest

from rank_xmodal.parallel import Serial, executor_named


@pytest.fixture(scope="module", autouse=True)
def _importable():
    here = str(Path(__file__).parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(here)
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([here, str(Path(here).parents[2])])
        )  # Ray's workers have theirs from it
        yield


@pytest.fixture(scope="module")
def executors(_importable):
    """Return one of each kind, started once."""
    pytest.importorskip("ray")
    with executor_named("2") as processes, executor_named("ray") as ray:
        yield {"serial": Serial(), "processes": processes, "ray": ray}


@pytest.fixture(params=["serial", "processes", "ray"])
def executor(request, executors):
    return executors[request.param]


@pytest.fixture(params=["processes", "ray"])
def others(request, executors):
    return executors[request.param]
