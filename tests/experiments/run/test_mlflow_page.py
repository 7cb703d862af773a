"""MLflow's pages as `rank-xmodal ui` serves them, in a real headless browser."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from experiments.run import ui
from experiments.run.tracking import Tracker

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RUNS = {"listnet-t2i <script>alert(1)</script>": 0.6871, "ranknet-t2i": 0.6612}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Two runs, logged as a training logs them, and the server; yields the address, the runs' ids and its process'."""
    store, port = tmp_path_factory.mktemp("mlruns"), free_port()
    ids = []
    for name, value in RUNS.items():
        tracker = Tracker(store)
        tracker.start("scenes", name, {"loss": name.split("-")[0], "lr": 0.00123}, {"direction": "t2i"})
        tracker.epoch({"epoch": 1, "loss": 0.5, "val_R@1": value})
        tracker.finish({"test/R1": value, "test/clip/R1": 0.5054})
        ids.append(tracker.run_id)
    command = [sys.executable, "-m", "experiments.cli.main", "ui", "--mlruns", store, "--port", port]
    log = (store / "server.log").open("wb")
    server = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, start_new_session=True)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                assert server.poll() is None, (store / "server.log").read_text()
                assert time.monotonic() < end, "the server doesn't answer"
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", ids, server.pid
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)
        log.close()


def rendered(url, profile, words):
    """Return the page as the browser has it once it holds all the words, or after some patience."""
    page = ""
    for budget in (8_000, 20_000, 40_000):  # ms of the page's own clock
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-background-networking", "--disable-gpu",
                   f"--user-data-dir={profile}", "--window-size=1600,1200", f"--virtual-time-budget={budget}",
                   "--dump-dom", url]  # fmt: skip
        page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        if all(word in page for word in words):
            break
    return page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_comparison_page_shows_runs_side_by_side(served, tmp_path):
    address, ids, _ = served
    asked = urllib.parse.urlencode({"runs": json.dumps(ids), "experiments": json.dumps(["1"])})
    words = ["ranknet-t2i", "listnet-t2i", "0.00123", "0.687", "0.661", "0.505"]
    page = rendered(f"{address}/#/compare-runs?{asked}", tmp_path / "profile", words)
    for word in words:
        assert word in page
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_table_of_runs_shows_names(served, tmp_path):
    address, _, _ = served
    page = rendered(f"{address}/#/experiments/1/runs", tmp_path / "profile", ["ranknet-t2i", "listnet-t2i"])
    assert "ranknet-t2i" in page
    assert "listnet-t2i" in page
    assert "<script>alert(1)" not in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_address_that_is_told_shows_figures_as_columns_best_first(served, tmp_path):
    address, _, _ = served
    words = ["test/R1", "0.6871", "0.6612", "ranknet-t2i"]
    page = rendered(ui.address(int(address.rpartition(":")[2]), "1"), tmp_path / "profile", words)
    for word in words:
        assert word in page
    assert page.index("0.6871") < page.index("0.6612")
    assert "does not exist" not in page


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc here")
def test_the_server_is_two_processes_for_there_are_no_jobs_to_run(served):
    found = [Path(path.parent, "cmdline").read_bytes() for path in Path("/proc").glob("[0-9]*/stat")
             if session(path) == served[2]]  # fmt: skip
    assert len(found) == 2, found


def session(stat):
    """Return the session that a process belongs to; 0 for one that has ended."""
    try:
        return int(stat.read_text().rpartition(")")[2].split()[3])
    except OSError:
        return 0


def test_nobody_else_is_served(served):
    port = int(served[0].rpartition(":")[2])
    try:
        other = socket.gethostbyname(socket.gethostname())
    except OSError:
        other = "127.0.0.1"
    if other.startswith("127."):
        other = "127.0.0.2"  # this machine too, and not the address that is served
    with socket.socket() as probe:
        probe.settimeout(5)
        assert probe.connect_ex((other, port)) != 0
