"""The MLflow store stands there whole or not at all, whoever makes it at the same time or is killed while doing so."""

import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from experiments.run.store import open_store
from experiments.run.tracking import Tracker, read_runs
from rank_xmodal.errors import UserError

CODE = """
import sys
from pathlib import Path
from experiments.run.tracking import Tracker
tracker = Tracker(Path(sys.argv[1]))
tracker.start("e", sys.argv[2], {}, {})
tracker.finish({"R1": 0.5})
sys.exit(1 if tracker.failed else 0)
"""


def begin(folder, name):
    return subprocess.Popen([sys.executable, "-c", CODE, str(folder), name])


def test_killed_while_it_is_made_and_two_at_once(tmp_path):
    store = tmp_path / "mlruns"
    first = begin(store, "killed")
    end = time.monotonic() + 120
    while not list(store.glob(".mlflow.db.*.part")) and time.monotonic() < end:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not (store / "mlflow.db").exists()
    both = [begin(store, "a"), begin(store, "b")]
    assert [one.wait(timeout=300) for one in both] == [0, 0]
    assert {run["name"] for run in read_runs(store, "e")} == {"a", "b"}
    assert sorted(os.listdir(store)) == ["mlflow.db"]


def test_a_store_that_is_not_whole_is_told_with_its_remedy(tmp_path):
    with sqlite3.connect(tmp_path / "mlflow.db") as base:
        base.execute("create table experiments (experiment_id integer primary key)")
    base.close()
    for use in (lambda: open_store(tmp_path), lambda: read_runs(tmp_path, "e")):
        with pytest.raises(UserError, match=r"not a whole MLflow store.*mlflow db upgrade sqlite.*move it away"):
            use()
    said = []
    tracker = Tracker(tmp_path, said.append)
    tracker.start("e", "a", {}, {})
    assert "not a whole MLflow store" in tracker.failed
    assert len(said) == 1
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 99)
    with pytest.raises(UserError, match="not a whole MLflow store"):
        open_store(tmp_path)
    (tmp_path / "mlflow.db").unlink()
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(UserError, match="not a whole MLflow store"):
        open_store(tmp_path, make=True)
    with pytest.raises(UserError, match="holds no MLflow store"):
        open_store(tmp_path / "none")
