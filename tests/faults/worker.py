"""A worker process: imports the product once, then forks a child for each case that it is sent."""

import importlib
import json
import os
import pkgutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# Each case is one thread's work, and nothing asks the network.
QUIET = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "PYTHONWARNINGS": "ignore",
    "COLUMNS": "140",
    "GIT_DIR": "/nowhere",  # the commit that runs are told of: somebody may commit meanwhile
}
FAMILIES = ("kill", "disk", "readonly", "together", "mutate", "grammar")
_MODULES = {"kill": "kills", "disk": "disk"}
# What commands import late, and what takes long at its first use.
_LATE = (
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.artifact.local_artifact_repo",
    "mlflow.store.workspace.utils",
    "alembic.command",
    "matplotlib.pyplot",
    "matplotlib.backends.backend_agg",
    "sqlalchemy.dialects.sqlite",
    "jinja2",
    "pyarrow.dataset",
    "pyarrow.pandas_compat",
    "PIL.PngImagePlugin",
    "PIL.JpegImagePlugin",
    "rich.table",
    "scipy.sparse.csgraph",
)


def import_product() -> None:
    """Import all of it, and what it imports late; no threads are started, for children are forked from here."""
    import torch

    torch.set_num_threads(1)
    from data_prep.weights import import_open_clip

    import_open_clip()
    for package in ("rank_xmodal", "data_prep", "experiments"):
        for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            _import(found.name)
    for name in _LATE:
        _import(name)
    import sqlalchemy.orm

    sqlalchemy.orm.configure_mappers()


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError:
        return  # an optional one; a command that needs it will say so


def family(name: str) -> ModuleType:
    """Return the module of a family of cases."""
    return importlib.import_module(f"tests.faults.{_MODULES.get(name, name)}")


def wanted(only: list[str]) -> Callable[[str], bool]:
    """Return whether a scenario, the second part of a case's name, is among those asked for; of none, all are."""
    scenarios = {case.split("/")[1] if "/" in case else "" for case in only}
    return lambda scenario: not only or "" in scenarios or scenario in scenarios


def serve(base: Path, seed: int) -> None:
    """Answer requests, a line of JSON each, until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints is no answer
    import_product()
    from tests.faults.bench import Bench, CannotPrepare

    bench = Bench(base, seed)
    print(json.dumps({"ready": True, "preloaded": bench.preloaded}), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        if "list" in request:
            answer = {"cases": [], "broken": None}
            try:
                answer["cases"] = family(request["list"]).cases(bench, request["cut"], wanted(request["only"]))
            except CannotPrepare as error:
                answer["broken"] = str(error)
            print(json.dumps(answer), file=answers)
            continue
        for answer in ran(bench, request["run"]):
            print(json.dumps(answer), file=answers)


def ran(bench: Any, cases: list[str]) -> Iterator[dict[str, Any]]:
    """Run cases of a family, and yield for each what came of it."""
    from tests.faults.bench import CannotPrepare

    module = family(cases[0].split("/")[0])
    start, done = time.monotonic(), set()
    many = getattr(module, "run_many", None) or (
        lambda bench, cases: ((case, module.run(bench, case)) for case in cases)
    )
    try:
        for case, found in many(bench, cases):
            answer = found if isinstance(found, dict) else {"why": found, "inputs": getattr(module, "INPUTS", 0)}
            yield {"case": case, "seconds": time.monotonic() - start, **answer}
            done.add(case)
            start = time.monotonic()
    except CannotPrepare as error:
        for case in cases:
            if case not in done:
                yield {"case": case, "why": str(error), "seconds": 0.0}


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
