"""The comparison page of MLflow, as `make ui` serves it, in a real headless browser."""

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

from experiments.run.store import store_uri
from experiments.run.tracking import Tracker

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RUNS = {"listnet-t2i <script>alert(1)</script>": 0.6871, "ranknet-t2i": 0.6612}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Two runs, logged as a training logs them, and the server; yields the address, the ids and the port."""
    store, port = tmp_path_factory.mktemp("mlruns"), free_port()
    ids = []
    for name, value in RUNS.items():
        tracker = Tracker(store)
        tracker.start("scenes", name, {"loss": name.split("-")[0], "lr": 0.00123}, {"direction": "t2i"})
        tracker.epoch({"epoch": 1, "loss": 0.5, "val_R@1": value})
        tracker.finish({"test/R1": value, "test/clip/R1": 0.5054})
        ids.append(tracker.run_id)
    command = [Path(sys.executable).with_name("mlflow"), "ui", "--backend-store-uri", store_uri(store)]
    command += ["--default-artifact-root", store / "artifacts", "--host", "127.0.0.1", "--port", str(port)]
    log = (store / "server.log").open("wb")
    server = subprocess.Popen(
        list(map(str, command)),
        stdout=log,
        stderr=log,
        start_new_session=True,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )
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
        yield f"http://127.0.0.1:{port}", ids, port
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


def test_nobody_else_is_served(served):
    _, _, port = served
    try:
        other = socket.gethostbyname(socket.gethostname())
    except OSError:
        other = "127.0.0.1"
    if other.startswith("127."):
        other = "127.0.0.2"  # this machine too, and not the address that is served
    with socket.socket() as probe:
        probe.settimeout(5)
        assert probe.connect_ex((other, port)) != 0
